"""Files on disk: atomic writes and locks, checkpoints, digests of states."""
