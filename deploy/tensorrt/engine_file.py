"""An engine file and its sidecar ``NAME.json``, which states its source, builder and options.

The hashes detect an engine that was damaged, replaced or built from another model. They are not a
signature: deserialising an engine runs the file's content on the GPU, so use only your own builds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.files import read_bytes, sha256_of_bytes, write_atomic
from ..core.json_schema import SchemaMismatch, check, load_schema
from ..core.strict_json import json_bytes, read_json
from .bindings import Bindings

FORMAT = "qadtr-tensorrt-engine"
FORMAT_VERSION = 1
"""The format version of a sidecar; another version is refused."""


def sidecar_of(engine: Path) -> Path:
    """The JSON beside an engine file."""
    return engine.with_name(engine.name + ".json")


def write_engine_file(out: Path, plan: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write an engine and its sidecar, each atomically, the sidecar last; return the sidecar.

    If the process is killed between the two, the sidecar is missing or belongs to another engine;
    :func:`read_engine_file` refuses both.

    Raises:
        InputError: the path is not writable, or the facts do not match the schema.
    """
    whole = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "engine": {"sha256": sha256_of_bytes(plan), "size_bytes": len(plan)},
        **facts,
    }
    data = json_bytes(whole)
    _check_schema(json.loads(data), str(sidecar_of(out)))
    write_atomic(out, plan)
    write_atomic(sidecar_of(out), data)
    return whole


def read_engine_file(
    engine: Path, *, onnx_sha256: str, bindings: Bindings
) -> tuple[bytes, Mapping[str, Any]]:
    """Read an engine that was built from a given ONNX file for the installed package.

    Args:
        engine: the file; its sidecar is beside it.
        onnx_sha256: of the ONNX file that it must have been built from.
        bindings: the package that will run it.

    Returns:
        The serialised engine, and its sidecar, which matches the schema.

    Raises:
        InputError: the engine or its sidecar is missing, damaged or of another format version;
            the engine was built from another file, by the other product or by another version
            (unless it is version-compatible and older).
    """
    sidecar = sidecar_of(engine)
    facts = read_json(sidecar)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InputError(f"{sidecar} does not describe a qadtr TensorRT engine")
    version = facts.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise InputError(
            f"{sidecar} has format version {str(version)[:40]!r}, but this release reads "
            f"{FORMAT_VERSION}; build the engine again"
        )
    _check_schema(facts, str(sidecar))
    plan = read_bytes(engine)
    sha256, told = sha256_of_bytes(plan), facts["engine"]
    if (sha256, len(plan)) != (told["sha256"], told["size_bytes"]):
        raise InputError(
            f"{engine} is not the engine that {sidecar.name} describes (SHA-256 "
            f"{sha256[:16]}…, expected {told['sha256'][:16]}…): it was changed "
            "or damaged; build it again"
        )
    if facts["onnx_sha256"] != onnx_sha256:
        raise InputError(
            f"{engine} was built from another ONNX file ({facts['onnx_sha256'][:16]}…) than the "
            f"requested model ({onnx_sha256[:16]}…); build it again from that model"
        )
    builder, here = facts["builder"], bindings.flavour.name
    if builder["name"] != here:
        raise InputError(f"{engine} was built by {builder['name']} and does not run in {here}")
    older = _numbers(builder["version"]) <= _numbers(bindings.version)
    may_differ = older and facts["options"].get("version_compatible", False)
    if builder["version"] != bindings.version and not may_differ:
        raise InputError(
            f"{engine} was built by {here} {builder['version']}, but {bindings.version} is "
            "installed; build it again with that, or install the version that built it"
        )
    return plan, facts


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _check_schema(facts: Mapping[str, Any], where: str) -> None:
    try:
        check(facts, load_schema("tensorrt-engine-1", __package__))
    except SchemaMismatch as error:
        raise InputError(f"{where}: {error}; build the engine again") from error
