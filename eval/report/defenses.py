"""The table of the defenses for readers, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.core.attack_checks import LOWER_BOUND, MARK
from eval.report.words import interval

_TITLES = {
    "transfer": "patches of an undefended float network of another seed",
    "white-box": "patches made on the row's own network at its widest bit-width",
}


def defenses_markdown(table: Mapping[str, Any]) -> str:
    """One part for each origin and bit-width of ``eval.measure.defenses.table_from_runs``, a line
    for each row."""
    cells = {(c["row"], c["origin"], c["column"], c["bits"]): c for c in table["cells"]}
    first = table["cells"][0]
    said = (
        f"{first['engine']}, split {first['split']}; ASR in % with Wilson's 95% interval; in "
        f"brackets the difference to {table['reference']} in points over the images that both "
        "classify correctly, with Newcombe's paired 95% interval. § a size that the row's "
        "training never pasted. ‡ clean accuracy more than 2 points under plain QAT: not "
        "comparable."
    )
    parts = [said]
    marked: dict[str, dict[str, None]] = {}
    for cell in table["cells"]:
        # A table of an earlier version has no word on the checks.
        tripped = ", ".join(cell.get("tripped_checks", ()))
        if tripped:
            marked.setdefault(tripped, {})[f"{cell['row']} at {cell['bits']} bits"] = None
    if marked:
        where = "; ".join(f"{', '.join(at)}: {tripped}" for tripped, at in marked.items())
        parts.append(f"{LOWER_BOUND} {where}.")
    for origin, title in _TITLES.items():
        names = [name for kind, name in table["columns"] if kind == origin]
        for bits in sorted({c["bits"] for c in table["cells"]}, reverse=True) if names else ():
            lines = []
            for row in (facts["row"] for facts in table["rows"]):
                of_row = [cells.get((row, origin, name, bits)) for name in names]
                there = next((cell for cell in of_row if cell is not None), None)
                if there is not None:
                    mark = " ‡" if there["comparable"] is False else ""
                    clean = _interval(there["clean_accuracy"])
                    lines.append([f"{row}{mark}", clean, *map(_shown, of_row)])
            if lines:
                header = ["row", "clean accuracy", *names]
                rows = [header, ["---"] * len(header), *lines]
                shown = "\n".join(f"| {' | '.join(line)} |" for line in rows)
                parts.append(f"**{bits} bits, {title}**\n\n{shown}")
    parts += [f"{row} failed: {reason}" for row, reason in table.get("failed", {}).items()]
    return "\n\n".join(parts)


def _shown(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "—"
    text = _interval(cell["asr"], MARK if cell.get("tripped_checks") else "")
    text += "" if cell["seen_size"] else " §"
    over = cell["over_reference"]
    if over is None:
        return text
    low, value, high = (100.0 * over[key] for key in ("low", "value", "high"))
    return f"{text} [{value:+.1f}, {low:+.1f}…{high:+.1f}]"


def _interval(share: Mapping[str, Any], mark: str = "") -> str:
    return f"{100 * share['value']:.1f}{mark} ({interval(share)})"
