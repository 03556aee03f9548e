"""Drift attribution: which step between the lab's network and the device changed the ASR."""
