"""Pretraining: the budget, the optimiser, the loop and its checkpoints."""
