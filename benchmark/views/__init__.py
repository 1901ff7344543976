"""Random views as batched tensor operations: each image of a batch has its own crop, order, factors and blur."""
