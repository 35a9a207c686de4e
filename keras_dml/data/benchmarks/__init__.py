"""One loader a file; each registers the names it is loaded by; `revisited` and `uned` have
loaders of their own."""
