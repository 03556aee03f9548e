"""Patches that somebody else made: read from PNG or npz, placed, and turned into patch sets."""
