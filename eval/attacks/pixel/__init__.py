"""Pixel attacks (no patch: every pixel may change a little), by a library, at each bit-width."""
