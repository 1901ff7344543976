"""Self-supervised vision methods, pretrained under one compute budget and scored by one evaluation harness."""

__version__ = "0.1.0"
PRETRAINING_VERSION = "1.0"
"""Major.Minor of all that decides an encoder's weights but the classes of methods, which have versions of their own."""
