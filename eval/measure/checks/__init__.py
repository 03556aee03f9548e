"""Checks that tell whether an attack on a network can be believed; docs/checks.md."""
