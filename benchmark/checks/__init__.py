"""What every method owes the harness: the checks of `python -m benchmark.battery`, which the tests call too."""
