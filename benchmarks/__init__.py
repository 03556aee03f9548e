"""Ratios against peers, measured side by side; `make bench` runs them."""
