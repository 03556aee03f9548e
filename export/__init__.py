"""Export a checkpoint to integer graphs, and prove that they compute what they should."""

import deploy.core  # noqa: F401 - turns the engine's telemetry off, before its import
