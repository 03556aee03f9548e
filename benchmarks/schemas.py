"""Writes docs/schemas/: the JSON Schema of every file that is checked by its type.

Run: ``python -m benchmarks.schemas``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deploy.core.files import json_bytes, write_atomic
from training.defenses import config_schema

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"

SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {"config": config_schema}
"""What makes a schema, by the name of its file."""


def main() -> int:
    """Write them all."""
    for name, make in SCHEMAS.items():
        write_atomic(FOLDER / f"{name}.json", json_bytes(make()))
        print(FOLDER / f"{name}.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
