"""Records in; one HTML page and the tables for the terminal out; numbers come from records only."""
