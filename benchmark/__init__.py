"""Self-supervised vision methods, pretrained under one compute budget and scored by one evaluation harness."""

__version__ = "0.1.0"
