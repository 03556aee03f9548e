"""Patches made by others: read from PNG or npz, placed, and turned into patch sets."""
