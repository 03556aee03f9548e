"""The training configuration: one TOML file, resolved into frozen settings.

Unknown keys, wrong types and values out of range are errors that name what is valid; nothing is
ignored.  ``[defense]`` holds the name of a defense and that defense's own settings, which the
defense itself declares (:mod:`training.defenses`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field, model_validator

from deploy.core.errors import InputError
from deploy.core.records import without_folder
from training.data import KINDS
from training.named import FORM, is_foreign
from training.network_spec import NetworkSettings
from training.toml_file import read_toml
from training.validated import (
    AtLeast0,
    AtLeast1,
    NotNegative,
    Positive,
    Share,
    as_json,
    read_settings,
    validated,
)


def _known_kind(kind: str) -> str:
    if kind not in KINDS and not is_foreign(kind):
        raise ValueError(f"must be one of {', '.join(KINDS)}, or your own as {FORM}; got {kind!r}")
    return kind


@validated()
class DataSettings:
    """What is trained on. ``kind``: cifar10, folder, digits, npz, or ``package.module:name``
    (:func:`training.data.load_images`); ``size``: side in pixels (the images of npz files and
    one's own have their own); ``augment``: crop-flip, crop (both with 4 px of grey
    padding) or none.

    ``masks``: share of each batch whose images show one or two grey squares, of a side drawn from
    ``mask_px`` (least, greatest): what certificates by masked inference ask of a network
    (:mod:`deploy.core.double_masking`). Of ``mask_tries`` draws each image shows the one that is
    hardest for the network at the step's bit-width; more than one cost a forward pass each."""

    kind: Annotated[str, AfterValidator(_known_kind)]
    size: Annotated[int, Field(ge=8)] = 32
    augment: Literal["crop-flip", "crop", "none"] = "crop-flip"
    masks: Share = 0.0
    mask_px: tuple[AtLeast1, AtLeast1] = (6, 12)
    mask_tries: AtLeast1 = 1

    @model_validator(mode="after")
    def _smaller_mask_first(self) -> DataSettings:
        if self.mask_px[0] > self.mask_px[1]:
            raise ValueError(f"mask_px must have the smaller value first; got {list(self.mask_px)}")
        return self


@validated()
class OptimizerSettings:
    """SGD with Nesterov momentum, linear warm-up and cosine decay to 0.

    ``epochs`` may be given as a fraction; ``weight_decay`` acts on convolution and linear weights
    only (not on BatchNorm, biases and quantizer scales).

    ``ema``: decay of the moving average of the weights that the checkpoint gets (0: the weights
    themselves).  ``warm_start``: the checkpoint (.safetensors) of a float network to start from;
    ``weights``: the safetensors of the float module itself, by its own names.
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
    weights: str | None = None
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


Teacher = Literal["next", "widest", "start"]
"""Who teaches a bit-width: the next wider one, the widest, or the float network of the start."""


@validated()
class DistillationSettings:
    """A teacher for each bit-width (:mod:`training.distillation`).

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
        """The config as plain numbers, strings, lists and tables, with which a run resumes."""
        return cast(dict[str, Any], as_json(self))

    def published(self) -> dict[str, Any]:
        """As :meth:`as_dict`, for checkpoints and records: files that the run started from are
        given by name alone ("…/NAME"), since their folders mean nothing on another machine."""
        found = self.as_dict()
        for key in ("warm_start", "weights"):
            if found["training"][key] is not None:
                found["training"][key] = without_folder(found["training"][key])
        return found


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Read a TOML config; ``overrides`` maps dotted keys (``training.epochs``) to values.

    ``extends = "OTHER.toml"``, in the same folder, names the config that this one overrides: tables
    merge key by key, any other value replaces the one below, and a ``[defense]`` with another name
    replaces the whole table, since its settings belong to another defense.

    Raises:
        InputError: a file is missing or not TOML or extends itself; a key is unknown, missing or of
            a wrong type.
    """
    return config_from_dict(with_settings(_read(path, ()), overrides or {}), str(path))


def with_settings(table: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a config, with values set by their dotted keys (``training.epochs``).

    Raises:
        InputError: a key leads through a value that is not a table.
    """
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        place = table
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InputError(f"{dotted}: {parent!r} is not a table of the config")
        place[last] = value
    return table


def _read(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """The table of ``path`` merged over those that it extends; ``extending``: the files that led to
    it."""
    by = f", which {extending[-1]} extends" if extending else ""
    if path.resolve() in [asked.resolve() for asked in extending]:
        raise InputError(f"configs extend in a circle: {' → '.join(map(str, (*extending, path)))}")
    if not path.exists():
        raise InputError(f"there is no config {path}{by}")
    table = read_toml(path, f"{path}{by and by + ','}")
    if "extends" not in table:
        return table
    base = table.pop("extends")
    if not isinstance(base, str) or "\0" in base:
        raise InputError(f"{path}: extends must be the path of a config; got {base!r}")
    return _merged(_read(path.parent / base, (*extending, path)), table)


def flat_settings(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config's tables by their dotted keys (``training.epochs``)."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, table by table."""
    merged = dict(below)
    for key, value in above.items():
        under = below.get(key)
        if isinstance(value, dict) and isinstance(under, dict):
            name = value.get("name", under.get("name"))
            if key != "defense" or name == under.get("name"):
                value = _merged(under, value)
        merged[key] = value
    return merged


def config_from_dict(table: Mapping[str, Any], source: str) -> TrainingConfig:
    """A config from plain tables; ``source`` names it in errors."""
    return read_settings(TrainingConfig, table, source)
