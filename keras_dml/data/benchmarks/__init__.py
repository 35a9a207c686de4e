"""One loader a file; each registers the names it is loaded by."""
