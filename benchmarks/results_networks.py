"""All networks of a group of results beside each other, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deploy.core.table import Table
from eval.report.names import Names
from eval.report.network_figures import (
    ATTACKED,
    NetworkFigures,
    certified_heading,
    figures_from_records,
    shared_patches,
)
from eval.report.words import MISSING, rate


def networks_table(records: Sequence[Mapping[str, Any]], names: Names) -> Table | None:
    """A row for each bit-width and network: clean, under attack, and certified.

    Transferred is the worst of the patches that every network with such patches was tried under.
    None where nothing but evaluations of patches is there, whose own table has them, or where there
    is one network.
    """
    every = figures_from_records(records)
    more = any(one.adaptive or one.certified for one in every)
    if not more or len({one.model["checkpoint_sha256"] for one in every}) == 1:
        return None
    patches = shared_patches(one for one in every if one.transferred)
    sides = sorted({px for one in every for px in one.certified})
    rows = [
        {
            **figures.cells(patches),
            "network": names.of(figures.model),
            **{_left_heading(px): _left(figures, px) for px in sides[-1:]},
        }
        for bits in sorted({one.bit_width for one in every}, reverse=True)
        for figures in every
        if figures.bit_width == bits
    ]
    columns = ["clean", *ATTACKED, *map(certified_heading, sides), *map(_left_heading, sides[-1:])]
    measured = [name for name in columns if any(row.get(name, MISSING) != MISSING for row in rows)]
    return Table(
        columns=("bits", "network", *measured),
        rows=[[row.get(name, MISSING) for name in ("bits", "network", *measured)] for row in rows],
    )


def _left_heading(px: int) -> str:
    return f"masked inference, {px}×{px}"


def _left(figures: NetworkFigures, px: int) -> str:
    """What masked inference leaves to any attack."""
    bound = figures.bound(px)
    return MISSING if bound is None else f"≤ {rate(bound)}"
