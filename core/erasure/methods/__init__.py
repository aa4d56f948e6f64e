"""One file for each method: its paper, its formula, its loss."""
