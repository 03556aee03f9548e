"""``python -m deploy.validate BUNDLE --engine NAME``: the device's validator with other engines.

The steps, the gate and the verdict are those of ``deploy.device``; only the engine differs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

from .device.command import main as validate
from .device.validation import EngineOpener
from .engine import ENGINES, open_engine


def engine_openers() -> dict[str, EngineOpener]:
    """How each engine is opened, by name."""
    return {name: functools.partial(open_engine, name) for name in ENGINES}


def main(argv: Sequence[str] | None = None) -> int:
    """Validate with one of the engines whose code is here and return the exit code."""
    return validate(argv, engines=engine_openers())


if __name__ == "__main__":
    sys.exit(main())
