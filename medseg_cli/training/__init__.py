"""Training: one loop for all methods (`loop`), what a method adds (`recipe`), and the run's folder (`run`)."""
