"""One loader a file; each registers the names it is loaded by; `revisited` has a loader of its own."""
