"""What notebooks show of values: one file per kind, found through `biaslab._util.notebook`."""
