"""What is written to disk: files written at once and whole, checkpoints, digests of states."""
