"""The manifest of a bundle: its contents, the lab's measurements and the device's thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.attack_checks import AttackVerdict
from ..core.errors import InputError
from ..core.images import CHANNEL_NAMES, INPUT_SCALE, INPUT_ZERO_POINT
from ..core.json_schema import SchemaMismatch, check, load_schema
from ..core.model_contents import ADOPTED
from ..core.strict_json import json_bytes, parse_json

FORMAT = "qadtr-bundle"
FORMAT_VERSION = 1
"""Of a bundle; another version is refused."""

SCHEMA = "bundle-manifest-1"
"""Name of the published JSON Schema, ``schemas/bundle-manifest-1.json`` beside this file."""

MANIFEST = "manifest.json"
CHECKSUMS = "manifest.sha256"
SIGNATURE = "manifest.sig"
ENVELOPE = (MANIFEST, CHECKSUMS, SIGNATURE)
"""The files that the manifest does not list: itself, its checksums and its signature."""

GOLDEN_LOGITS = "logits"
"""The array of the golden logits, unless a model names one of its own."""

MAX_MANIFEST_BYTES = 8 << 20
PASTED_IMAGES = 16
"""Images, at most, whose pasted bytes the manifest has the hash of."""


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """The expected size and hash of a file of the bundle."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The model file for one engine; the fields are described in the schema."""

    file: str
    max_logit_difference: float
    max_flips: int
    certificate: Mapping[str, Any] | None
    logits_identical_on: tuple[str, ...]
    golden_logits: str = GOLDEN_LOGITS
    machine_proof: Mapping[str, Any] | None = None
    oldest_engine: str | None = None
    target: str | None = None

    @property
    def adopted(self) -> bool:
        """Whether the file is a third-party file, for which no integers were promised."""
        return self.target == ADOPTED

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON values, without unknown fields, as before these fields existed."""
        facts = {**self.__dict__, "logits_identical_on": list(self.logits_identical_on)}
        for name in ("machine_proof", "oldest_engine", "target"):
            if facts[name] is None:
                del facts[name]
        return facts


@dataclass(frozen=True, kw_only=True)
class PatchFacts:
    """One patch set of the suite; the fields are described in the schema."""

    name: str
    file: str
    gated: bool
    attack: str
    kind: str
    placement: str
    target: int | None
    source: Mapping[str, Any] | None
    seed: int | None
    pasted_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest that was checked against the schema and for consistency.

    Attributes:
        files: by path within the bundle.
        models: by engine.
        attack_checks: what the lab's checks of its attacks on this model found.
        raw: everything as it was read.
    """

    name: str
    bit_width: int
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    files: Mapping[str, FileFacts]
    models: Mapping[str, ModelFacts]
    images: Mapping[str, Any]
    golden: Mapping[str, Any]
    lab: Mapping[str, Any]
    patches: tuple[PatchFacts, ...]
    thresholds: Mapping[str, float | None]
    random_floor_seed: int
    attack_checks: AttackVerdict
    raw: Mapping[str, Any]


def parse_manifest(data: bytes, *, where: str = MANIFEST) -> Manifest:
    """Return the manifest that the bytes hold.

    Raises:
        InputError: too large, not JSON, another format or version, a field that is missing, unknown
            or of another type, a file that is named but not listed or listed but not named, or a
            preprocessing that differs from that of this code.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise InputError(
            f"{where} has {len(data)} bytes, but at most {MAX_MANIFEST_BYTES} are allowed"
        )
    raw = parse_json(data, where)
    _check_version(raw, where)
    try:
        check(raw, load_schema(SCHEMA, __package__))
    except SchemaMismatch as error:
        raise InputError(f"{where}: {error}; make the bundle again") from error
    assert isinstance(raw, dict)
    models = {
        name: ModelFacts(**{**facts, "logits_identical_on": tuple(facts["logits_identical_on"])})
        for name, facts in raw["models"].items()
    }
    given = raw["preprocessing"]
    manifest = Manifest(
        name=raw["name"],
        bit_width=raw["bit_width"],
        classes=tuple(raw["classes"]),
        input_shape=(
            next(n for n, name in CHANNEL_NAMES.items() if name == given["channels"]),
            given["height_px"],
            given["width_px"],
        ),
        files={path: FileFacts(**facts) for path, facts in raw["files"].items()},
        models=models,
        images=raw["images"],
        golden=raw["golden"],
        lab=raw["lab"],
        patches=tuple(PatchFacts(**facts) for facts in raw["patches"]),
        thresholds=raw["thresholds"],
        random_floor_seed=raw["random_floor_seed"],
        attack_checks=AttackVerdict.of(raw.get("attack_checks")),
        raw=raw,
    )
    _check_files(manifest, where)
    return manifest


def manifest_bytes(raw: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest after reading them back.

    Raises:
        InputError: as :func:`parse_manifest`.
    """
    data = json_bytes(raw)
    parse_manifest(data)
    return data


def preprocessing_facts(input_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the manifest's ``preprocessing`` of images (C, H, W): the one definition, written
    out."""
    channels, height_px, width_px = input_shape
    return {
        "dtype": "uint8",
        "layout": "NCHW",
        "channels": CHANNEL_NAMES[channels],
        "height_px": height_px,
        "width_px": width_px,
        "zero_point": INPUT_ZERO_POINT,
        "scale": INPUT_SCALE,
    }


def sidecar_of(path: str) -> str:
    """Return the path of the JSON that belongs to a patch set's npz."""
    return path.removesuffix(".npz") + ".json"


def _check_version(raw: object, where: str) -> None:
    # Before the schema, so that a newer format is called that and not damaged.
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise InputError(f"{where} does not describe a qadtr bundle")
    version = raw.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise InputError(
            f"{where} has format version {str(version)[:40]!r}, but this validator reads "
            f"{FORMAT_VERSION}; use the validator of the release that wrote the bundle"
        )


def _check_files(manifest: Manifest, where: str) -> None:
    named = [facts["file"] for facts in (manifest.images, manifest.golden, manifest.lab)]
    named += [model.file for model in manifest.models.values()]
    for patch in manifest.patches:
        if not patch.file.endswith(".npz"):
            raise InputError(f"{where}: the patch file {patch.file!r} is not a .npz")
        named += [patch.file, sidecar_of(patch.file)]
    missing = sorted(set(named) - manifest.files.keys())
    if missing:
        raise InputError(f"{where} refers to files that it does not list: {', '.join(missing)}")
    taken = sorted(path for path in manifest.files if path in ENVELOPE)
    if taken:
        raise InputError(f"{where} lists {', '.join(taken)}, which are files of the bundle itself")
    lowered = [path.lower() for path in manifest.files]
    if len(set(lowered)) != len(lowered):
        raise InputError(f"{where} lists paths that differ only in upper and lower case")
    names = [patch.name for patch in manifest.patches]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where}: two patches have the same name, {twice!r}")
