"""Small vision networks that resist adversarial patches at every bit-width: train to report.

This package is the face: the `qadtr` command. The work is done in `training`, `export`, `deploy`
and `eval`; importing this package needs nothing but the standard library.
"""

import deploy.core  # noqa: F401 - turns the engine's telemetry off, before its import

__version__ = "0.1.0"
