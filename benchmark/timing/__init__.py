"""How fast it is: the measurements behind `python -m benchmark.speed`."""
