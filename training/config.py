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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deploy.core.errors import InputError
from training.scale_recipes import ScaleRecipe
from training.settings_reading import read_settings


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is trained on. ``kind``: cifar10, folder or digits; ``size``: side in pixels;
    ``augment``: crop-flip, crop (both with 4 px of grey padding) or none."""

    kind: Literal["cifar10", "folder", "digits"]
    size: int = 32
    augment: Literal["crop-flip", "crop", "none"] = "crop-flip"

    def __post_init__(self) -> None:
        _at_least("data.size", self.size, 8)


@dataclass(frozen=True, kw_only=True)
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
    mixed: Mapping[str, Any] = field(default_factory=dict)
    activation_scales: ScaleRecipe = "learned"
    weight_scales: ScaleRecipe = "statistics"

    def __post_init__(self) -> None:
        self.mixed_bits()
        if self.exact and self.weight_scales != "statistics":
            raise InputError(
                'network.exact = true needs network.weight_scales = "statistics": an exact '
                "network's weight scales are powers of two that its accumulator's bound decides"
            )

    def mixed_bits(self) -> dict[int, dict[str, int]]:
        """``mixed`` with numbers for bit-widths and dotted layer names (TOML reads an unquoted
        ``block1.first`` as a table of a table).

        Raises:
            InputError: a bit-width that is no number, or bits that are none.
        """
        result: dict[int, dict[str, int]] = {}
        for mode, layers in self.mixed.items():
            if not mode.isdecimal() or not isinstance(layers, Mapping):
                raise InputError(
                    "network.mixed holds a table for each bit-width, such as "
                    f"[network.mixed.4]; got {mode} = {layers!r}"
                )
            result[int(mode)] = _flat(layers, f"network.mixed.{mode}")
        return result


@dataclass(frozen=True, kw_only=True)
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

    epochs: float
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    warmup_epochs: float = 0.5
    gradient_clip: float = 5.0
    ema: float = 0.0
    warm_start: str | None = None
    accumulate: int = 1
    autocast: Literal["off", "bf16"] = "off"

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "gradient_clip"):
            _above(f"training.{name}", getattr(self, name), 0.0)
        for name in ("momentum", "weight_decay", "label_smoothing", "warmup_epochs"):
            _at_least(f"training.{name}", getattr(self, name), 0.0)
        _at_least("training.batch_size", self.batch_size, 2)
        _at_least("training.ema", self.ema, 0.0)
        if self.ema >= 1.0:
            raise InputError(f"training.ema must be below 1, got {self.ema}")
        _at_least("training.accumulate", self.accumulate, 1)
        if self.batch_size % self.accumulate or self.batch_size < 2 * self.accumulate:
            raise InputError(
                f"training.accumulate must divide training.batch_size into parts of at least 2 "
                f"images; got {self.accumulate} for {self.batch_size}"
            )


Teacher = Literal["next", "widest"]
"""Who teaches a bit-width: the next wider one, or the widest."""


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """The wider bit-width teaches the narrower (:mod:`training.distillation`).

    ``weight`` of the teacher's part of the loss, 0 (none, the default) to 1; ``temperature`` of
    both distributions; ``teacher``: a :data:`Teacher`.
    """

    weight: float = 0.0
    temperature: float = 2.0
    teacher: Teacher = "next"

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0:
            raise InputError(f"distillation.weight must be 0 to 1, got {self.weight}")
        _above("distillation.temperature", self.temperature, 0.0)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that one training run depends on, besides the images.

    ``defense`` is the raw table of the config; :func:`training.defenses.build_defense` checks it.
    """

    name: str
    seed: int
    data: DataSettings
    network: NetworkSettings
    training: OptimizerSettings
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    defense: Mapping[str, Any] = field(default_factory=lambda: {"name": "qat"})

    def __post_init__(self) -> None:
        _at_least("seed", self.seed, 0)

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


def _flat(layers: Mapping[str, Any], where: str) -> dict[str, int]:
    flat: dict[str, int] = {}
    for name, bits in layers.items():
        if isinstance(bits, Mapping):
            flat |= {f"{name}.{k}": v for k, v in _flat(bits, f"{where}.{name}").items()}
        elif isinstance(bits, bool) or not isinstance(bits, int):
            raise InputError(f"{where}: {name} must be a number of bits, got {bits!r}")
        else:
            flat[name] = bits
    return flat


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise InputError(f"{name} must be at least {least}, got {value}")


def _above(name: str, value: float, bound: float) -> None:
    if not value > bound:
        raise InputError(f"{name} must be above {bound}, got {value}")
