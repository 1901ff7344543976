"""Configuration: parses gin files, looks up names, checks values, and writes the canonical text of a run."""
