"""Many runs: what a suite plans, how its runs are started, and what `python -m benchmark.list` finds."""
