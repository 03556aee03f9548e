"""Evaluation: patch attacks, what they achieve on an engine, and the report of it."""
