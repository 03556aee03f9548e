"""Attacks by someone who knows the defense, its randomness included; docs/checks.md."""
