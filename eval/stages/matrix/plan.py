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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from deploy.core.errors import InputError
from deploy.engine import ENGINES
from eval.attacks import attack_from_settings
from eval.measure.subject import TORCH
from eval.stages.patch import PatchRunSettings
from training.toml_file import read_toml
from training.validated import AtLeast0, AtLeast1, read_settings, validated

_VARIED = ("size_px", "placement")


def _listed(value: object) -> Sequence[Any]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


_OneOrMore = (Field(min_length=1), BeforeValidator(_listed))
_Bits = Annotated[tuple[AtLeast1, ...], *_OneOrMore]


@validated()
class _Source:
    """A ``[[source]]``; each entry of ``bits`` is attacked at once."""

    run: Path
    bits: Annotated[tuple[_Bits, ...], *_OneOrMore] = ((32,),)


@validated()
class Target:
    """A ``[[target]]`` to try patches on; ``bits`` None means all that are exported."""

    run: Path
    bits: _Bits | None = None
    engine: Annotated[tuple[str, ...], *_OneOrMore] = ("onnxruntime",)


@validated()
class _Plan:
    """The whole file."""

    split: Literal["test", "holdout"] = "test"
    images: AtLeast1 | None = None
    made_from: AtLeast1 | None = None
    seed: AtLeast0 = 0
    source: Annotated[tuple[_Source, ...], Field(min_length=1)]
    attack: Annotated[tuple[Mapping[str, Any], ...], Field(min_length=1)]
    target: Annotated[tuple[Target, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class PatchPlan:
    """One patch set to make: ``attack`` with ``settings`` (bit-widths among them) on ``run``."""

    run: Path
    attack: str
    settings: Mapping[str, Any]


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
    targets: tuple[Target, ...]
    settings: PatchRunSettings


def read_plan(path: Path) -> MatrixPlan:
    """Read and check a plan; runs are not opened yet.

    Raises:
        InputError: no such file, no TOML, an unknown key (the known ones are named), an unknown
            attack, setting, engine or split, or nothing to do.
    """
    plan = read_settings(_Plan, read_toml(path), str(path))
    named = [name for target in plan.target for name in target.engine]
    unknown = [name for name in named if name not in ENGINES and name != TORCH]
    if unknown:
        known = ", ".join([*sorted(ENGINES), TORCH])
        raise InputError(f"{path}: unknown engine {', '.join(unknown)}; known: {known}")
    try:
        return MatrixPlan(
            patches=tuple(
                patch
                for source, attack in product(plan.source, plan.attack)
                for patch in _patches(source, attack)
            ),
            targets=plan.target,
            settings=PatchRunSettings(
                split=plan.split, images=plan.images, made_from=plan.made_from, seed=plan.seed
            ),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _patches(source: _Source, attack: Mapping[str, Any]) -> list[PatchPlan]:
    if "name" not in attack:
        raise InputError('an [[attack]] needs a name, such as "lavan"')
    rest = {key: value for key, value in attack.items() if key != "name"}
    if "bit_widths" in rest:
        raise InputError("an [[attack]] takes no bit-widths; give them as bits in [[source]]")
    fixed = {key: value for key, value in rest.items() if key not in _VARIED}
    varied = {key: _listed(rest[key]) for key in _VARIED if key in rest}
    patches = []
    for bits in source.bits:
        for combination in product(*varied.values()):
            settings = {**fixed, **dict(zip(varied, combination, strict=True)), "bit_widths": bits}
            # Refuses an unknown attack or setting now, not hours later.
            attack_from_settings(str(attack["name"]), settings)
            patches.append(PatchPlan(run=source.run, attack=str(attack["name"]), settings=settings))
    return patches
