"""One file for each command: it opens files, calls the other three, and writes files."""
