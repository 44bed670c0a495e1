"""One file per command, called by the command line and notebooks alike; alone in measuring, drawing and writing."""
