"""What a transfer matrix is of, from a TOML file.

    split = "test"               # or "holdout"
    images = 1000                # that patches are tried on; left out: all
    made_from = 2000             # universal patches: training images to optimize on
    seed = 0

    [[source]]
    run = "runs/source"
    bits = [32, [8, 4, 2]]       # each entry is one source; a list is attacked at once

    [[attack]]
    name = "lavan"
    size_px = [6, 8]             # every combination of the listed sizes and placements
    placement = ["centre", "random"]
    steps = 100                  # any further setting of the attack

    [[target]]
    run = "runs/plain"
    bits = [8, 4, 2]             # left out: all that are exported
    engine = ["onnxruntime", "torch"]   # torch: the fake-quantized network

Every source × attack × size × placement makes one patch set, every target × bit-width × engine is
tried with all of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from deploy.core.errors import InputError
from deploy.core.files import read_bytes
from deploy.engine import ENGINES
from eval.attacks import attack_from_settings
from eval.measure.subject import TORCH
from eval.stages.patch import PatchRunSettings

SPLITS = ("test", "holdout")
_VARIED = ("size_px", "placement")
_KEYS = {
    "plan": {"split", "images", "made_from", "seed", "source", "attack", "target"},
    "source": {"run", "bits"},
    "target": {"run", "bits", "engine"},
}


@dataclass(frozen=True, kw_only=True)
class PatchPlan:
    """One patch set to make: ``attack`` with ``settings`` (bit-widths among them) on ``run``."""

    run: Path
    attack: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TargetPlan:
    """One model to try patches on; ``bits`` None stands for all that are exported."""

    run: Path
    bits: tuple[int, ...] | None
    engines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MatrixPlan:
    """A whole matrix.

    Attributes:
        patches: to make, in the order of the plan.
        targets: to try them on.
        settings: split, images and seed, the same for every patch set: a common set needs the
            same images everywhere.
    """

    patches: tuple[PatchPlan, ...]
    targets: tuple[TargetPlan, ...]
    settings: PatchRunSettings


def read_plan(path: Path) -> MatrixPlan:
    """Read and check a plan; runs are not opened yet.

    Raises:
        InputError: no such file, no TOML, an unknown key (the known ones are named), an unknown
            attack, setting, engine or split, or nothing to do.
    """
    try:
        values = tomllib.loads(read_bytes(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML file: {error}") from error
    try:
        return plan_from_mapping(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def plan_from_mapping(values: Mapping[str, Any]) -> MatrixPlan:
    """A plan from the keys of its file; errors as :func:`read_plan`."""
    _known("plan", values)
    split = values.get("split", "test")
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    sources = _tables(values, "source")
    attacks = _tables(values, "attack")
    return MatrixPlan(
        patches=tuple(
            patch
            for source, attack in product(sources, attacks)
            for patch in _patches(source, attack)
        ),
        targets=tuple(_target(table) for table in _tables(values, "target")),
        settings=PatchRunSettings(
            split=split,
            images=_count(values, "images"),
            made_from=_count(values, "made_from"),
            seed=_whole("seed", values.get("seed", 0), least=0),
        ),
    )


def _patches(source: Mapping[str, Any], attack: Mapping[str, Any]) -> list[PatchPlan]:
    _known("source", source)
    if "name" not in attack:
        raise InputError('an [[attack]] has no name, such as "lavan"')
    rest = {key: value for key, value in attack.items() if key != "name"}
    if "bit_widths" in rest:
        raise InputError("the bit-widths of an attack stand in [[source]], as bits")
    fixed = {key: value for key, value in rest.items() if key not in _VARIED}
    varied = {key: _listed(rest[key]) for key in _VARIED if key in rest}
    patches = []
    for bits in _listed(source.get("bits", [32])):
        for combination in product(*varied.values()):
            settings = {**fixed, **dict(zip(varied, combination, strict=True))}
            settings["bit_widths"] = tuple(_listed(bits))
            # Refuses an unknown attack or setting now, not hours later.
            made = attack_from_settings(str(attack["name"]), settings)
            patches.append(
                PatchPlan(run=_run(source, "source"), attack=made.name, settings=settings)
            )
    return patches


def _target(table: Mapping[str, Any]) -> TargetPlan:
    _known("target", table)
    engines = tuple(str(name) for name in _listed(table.get("engine", "onnxruntime")))
    unknown = [name for name in engines if name not in ENGINES and name != TORCH]
    if unknown or not engines:
        known = ", ".join([*sorted(ENGINES), TORCH])
        raise InputError(f"unknown engine {', '.join(unknown) or 'list, empty'}; known: {known}")
    bits = None
    if "bits" in table:
        bits = tuple(_whole("bits", value, least=1) for value in _listed(table["bits"]))
    return TargetPlan(run=_run(table, "target"), bits=bits, engines=engines)


def _known(what: str, table: Mapping[str, Any]) -> None:
    unknown = sorted(set(table) - _KEYS[what])
    if unknown:
        raise InputError(
            f"a {what} has no {', '.join(unknown)}; known: {', '.join(sorted(_KEYS[what]))}"
        )


def _tables(values: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    tables = values.get(name)
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise InputError(f"expected one or more [[{name}]] tables")
    return tables


def _run(table: Mapping[str, Any], what: str) -> Path:
    if not isinstance(table.get("run"), str):
        raise InputError(f"a [[{what}]] has no run, the path of a run folder")
    return Path(table["run"])


def _listed(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _count(values: Mapping[str, Any], name: str) -> int | None:
    return None if name not in values else _whole(name, values[name], least=1)


def _whole(name: str, value: object, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value
