"""The page of a batch: what it shows of each case (`views`), and the one HTML file that holds all of it (`page`)."""
