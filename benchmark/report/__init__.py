"""Records of runs, their statistics and the tables made from them; plain Python, so that tables regenerate at once."""
