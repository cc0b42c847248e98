"""CC-SAM (arXiv 2408.00181), our reconstruction: no code is public, and the paper's equations could not be read."""
