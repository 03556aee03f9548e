"""Drift attribution: which step between the lab's network and the device moved the ASR."""
