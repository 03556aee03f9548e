"""The notebooks of the scripts beside this file: a cell for each ``# %%`` in them.

    python examples/notebooks.py

A comment after ``# %% [markdown]`` is a cell of text. The notebooks hold no output.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCRIPTS = ("own_network", "own_loop")
_MARKDOWN = " [markdown]"


def cells_of(script: str) -> list[tuple[str, str]]:
    """Kind ("markdown" or "code") and text of each cell of a script."""
    first, *parts = f"\n{script}".split("\n# %%")
    assert not first.strip()
    found = []
    for part in parts:
        head, _, body = part.partition("\n")
        text = body.strip("\n")
        if head == _MARKDOWN:
            lines = (line.removeprefix("#").removeprefix(" ") for line in text.splitlines())
            found.append(("markdown", "\n".join(lines)))
        else:
            found.append(("code", text))
    return found


def notebook_of(script: str) -> str:
    """The script as a notebook (nbformat 4.5), JSON."""
    cells: list[dict[str, Any]] = []
    for number, (kind, text) in enumerate(cells_of(script)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        own: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
        cells.append({**cell, **own, "source": text.splitlines(keepends=True)})
    about = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    whole = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in SCRIPTS:
        path = HERE / f"{name}.ipynb"
        path.write_text(notebook_of(path.with_suffix(".py").read_text("utf-8")), encoding="utf-8")
        print(path)
