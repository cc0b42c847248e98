"""medseg: segment medical scans from the command line and from Python."""
