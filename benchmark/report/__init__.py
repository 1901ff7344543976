"""Records of runs, their statistics and the tables made from them; without torch, so that tables regenerate at once."""
