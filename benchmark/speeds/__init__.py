"""Measurements of speed: what the benchmark costs, beside the plain way and beside its peers, in interleaved rounds."""
