"""Checks of whether an attack on a network is reliable; docs/checks.md."""
