"""Networks with a switchable bit-width, the defenses that harden them, and the training loop."""
