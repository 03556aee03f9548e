"""From a checkpoint to integer graphs, and the proof that they are what they claim to be."""

import deploy.core  # noqa: F401 - turns the engine's telemetry off, before its import
