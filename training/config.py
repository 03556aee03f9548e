"""The training configuration: one TOML file, resolved into frozen settings.

Unknown keys, wrong types and values out of range are errors that name what is valid; nothing is
ignored.  ``[defense]`` holds the name of a defense and that defense's own settings, which the
defense itself declares (:mod:`training.defenses`).
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, model_validator

from deploy.core.errors import InputError
from training.scale_recipes import ScaleRecipe
from training.validated import (
    AtLeast0,
    AtLeast1,
    NotNegative,
    Positive,
    Share,
    read_settings,
    validated,
)


@validated()
class DataSettings:
    """What is trained on. ``kind``: cifar10, folder or digits; ``size``: side in pixels;
    ``augment``: crop-flip, crop (both with 4 px of grey padding) or none."""

    kind: Literal["cifar10", "folder", "digits"]
    size: Annotated[int, Field(ge=8)] = 32
    augment: Literal["crop-flip", "crop", "none"] = "crop-flip"


def _dotted(layers: Any) -> Any:
    """Bits by dotted layer name: TOML reads an unquoted ``block1.first`` as a table of a table."""
    if not isinstance(layers, Mapping):
        return layers
    flat: dict[str, Any] = {}
    for name, bits in layers.items():
        inside = _dotted(bits)
        table = isinstance(bits, Mapping)
        flat |= {f"{name}.{k}": v for k, v in inside.items()} if table else {name: bits}
    return flat


MixedBits = Mapping[
    # A table's keys are text.
    Annotated[int, Strict(False)],
    Annotated[Mapping[str, int], BeforeValidator(_dotted)],
]
"""For a bit-width of the network, bits by layer name."""


@validated()
class NetworkSettings:
    """Which network, at which bit-widths (32: float).

    ``exact``: the engine computes bit for bit what the fake-quantized network computes
    (:mod:`training.exact`).  ``mixed``: for a bit-width of the network, the bits of layers that
    have others then, by layer name (:mod:`training.networks.layers`).  ``activation_scales`` and
    ``weight_scales``: "learned" (by LSQ's gradient) or "statistics" (of what is quantized).
    """

    name: str
    bit_widths: tuple[int, ...] = (32, 8, 5, 4, 2)
    exact: bool = False
    mixed: MixedBits = field(default_factory=dict)
    activation_scales: ScaleRecipe = "learned"
    weight_scales: ScaleRecipe = "statistics"

    @model_validator(mode="after")
    def _exact_has_power_of_two_scales(self) -> NetworkSettings:
        if self.exact and self.weight_scales != "statistics":
            raise ValueError(
                'exact = true needs weight_scales = "statistics": an exact network\'s weight '
                "scales are powers of two that its accumulator's bound decides"
            )
        return self


@validated()
class OptimizerSettings:
    """SGD with Nesterov momentum, linear warm-up and cosine decay to 0.

    ``epochs`` may be given as a fraction; ``weight_decay`` acts on convolution and linear weights
    only (not on BatchNorm, biases and quantizer scales).

    ``ema``: decay of the moving average of the weights that the checkpoint gets (0: the weights
    themselves).  ``warm_start``: the checkpoint (.safetensors) of a float network to start from.
    ``accumulate``: a step's ``batch_size`` images go through the network in that many parts, for
    less memory; BatchNorm then sees one part at a time.
    ``autocast``: "bf16" takes the products of convolutions in bfloat16, quicker where the processor
    or GPU has units for it (`--dry-run` times both); "off" in float32.  Evaluation is float32.
    """

    epochs: Positive
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: Positive = 0.1
    momentum: NotNegative = 0.9
    weight_decay: NotNegative = 5e-4
    label_smoothing: NotNegative = 0.0
    warmup_epochs: NotNegative = 0.5
    gradient_clip: Positive = 5.0
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    warm_start: str | None = None
    accumulate: AtLeast1 = 1
    autocast: Literal["off", "bf16"] = "off"

    @model_validator(mode="after")
    def _parts_are_equal(self) -> OptimizerSettings:
        if self.batch_size % self.accumulate or self.batch_size < 2 * self.accumulate:
            raise ValueError(
                "accumulate must divide batch_size into parts of at least 2 images; "
                f"got {self.accumulate} for {self.batch_size}"
            )
        return self


Teacher = Literal["next", "widest"]
"""Who teaches a bit-width: the next wider one, or the widest."""


@validated()
class DistillationSettings:
    """The wider bit-width teaches the narrower (:mod:`training.distillation`).

    ``weight`` of the teacher's part of the loss, 0 (none, the default) to 1; ``temperature`` of
    both distributions; ``teacher``: a :data:`Teacher`.
    """

    weight: Share = 0.0
    temperature: Positive = 2.0
    teacher: Teacher = "next"


@validated()
class TrainingConfig:
    """Everything that one training run depends on, besides the images.

    ``defense`` is the raw table of the config; :func:`training.defenses.build_defense` checks it.
    """

    name: str
    seed: AtLeast0
    data: DataSettings
    network: NetworkSettings
    training: OptimizerSettings
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    defense: Mapping[str, Any] = field(default_factory=lambda: {"name": "qat"})

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and tables, as records and checkpoints store it."""
        plain = dataclasses.asdict(self)
        plain["defense"] = dict(self.defense)
        return typing.cast(dict[str, Any], _plain(plain))


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Read a TOML config; ``overrides`` maps dotted keys (``training.epochs``) to values.

    Raises:
        InputError: the file is missing or no TOML, a key is unknown, missing or of a wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no config {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from error
    for dotted, value in (overrides or {}).items():
        *parents, last = dotted.split(".")
        place = table
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InputError(f"{dotted}: {parent!r} is no table of the config")
        place[last] = value
    return config_from_dict(table, str(path))


def config_from_dict(table: Mapping[str, Any], source: str) -> TrainingConfig:
    """A config from plain tables; ``source`` names it in errors."""
    return read_settings(TrainingConfig, table, source)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
