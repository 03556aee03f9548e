"""Adaptive evaluations: what an attacker who knows the defense achieves, as records."""
