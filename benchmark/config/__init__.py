"""Configuration: gin files are parsed, names looked up, values checked, and a run gets its canonical text."""
