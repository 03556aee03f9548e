"""Small vision networks that resist adversarial patches at every bit-width: train to report.

This package is the face: the `qadtr` command. The work is done in `training`, `export`, `deploy`
and `eval`; importing this package needs nothing but the standard library.
"""

__version__ = "0.1.0"
