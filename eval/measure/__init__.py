"""Measuring the effect of patches: subjects and patch sets in, records out."""
