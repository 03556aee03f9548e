"""Where a result comes from: the commit of this checkout, and what else a record carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def provenance(**facts: Any) -> dict[str, Any]:
    """What `deploy.core.records.provenance` says of ``facts``, with the commit of this checkout."""
    from deploy.core import records

    return records.provenance(repository=repository(), **facts)


def repository() -> Path | None:
    """The checkout that this code runs from, for the commit in a record; None when installed."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else None
