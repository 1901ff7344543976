"""Figures of a finished run: what they show, how they are laid out, and what they compute from features."""
