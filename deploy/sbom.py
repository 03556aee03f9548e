"""A bill of materials of a bundle, beside it: its files, and the packages that made it.

CycloneDX 1.6 as JSON, without time and serial number, so that one environment gives one text.

Reference: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from .core.files import sha256_of_bytes

SUFFIX = ".cdx.json"

_TYPES = {"models": "machine-learning-model", "validate.pyz": "application"}
_DATA = ("golden", "images", "lab", "patches")
_SPDX = re.compile(r"[A-Za-z0-9.+() -]+")
_MOST_CHARACTERS = 120
"""Of a licence's name: some packages have the whole text there."""


def bill_of_materials(
    name: str, files: Mapping[str, bytes], manifest_sha256: str
) -> dict[str, Any]:
    """Return the bill of materials as JSON values.

    Args:
        name: of the bundle.
        files: all of its files by path.
        manifest_sha256: names the bundle.
    """
    bundle = {"type": "data", "bom-ref": "bundle", "name": name, "hashes": _hash(manifest_sha256)}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": bundle,
            "properties": [{"name": "qadtr:hash-of-bundle", "value": "SHA-256 of manifest.json"}],
        },
        "components": [
            *(_file(path, data) for path, data in sorted(files.items())),
            *packages(metadata.distributions()),
        ],
    }


def packages(distributions: Iterable[metadata.Distribution]) -> list[dict[str, Any]]:
    """Return the installed packages as components, each once, by name."""
    found: dict[str, dict[str, Any]] = {}
    for one in distributions:
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"] or "").lower()
        if name:
            found.setdefault(name, _package(name, one))
    return [component for _, component in sorted(found.items())]


def _file(path: str, data: bytes) -> dict[str, Any]:
    first = path.partition("/")[0]
    kind = _TYPES.get(first, "data" if first in _DATA else "file")
    return {"type": kind, "name": path, "hashes": _hash(sha256_of_bytes(data))}


def _package(name: str, one: metadata.Distribution) -> dict[str, Any]:
    component = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{one.version}",
        "name": name,
        "version": one.version,
        "purl": f"pkg:pypi/{name}@{one.version}",
    }
    licences = licence_of(one.metadata)
    return component | ({"licenses": licences} if licences else {})


def licence_of(about: Any) -> list[dict[str, Any]]:
    """Return a package's licence as it declares it: an SPDX expression, else its classifiers' or
    its own words; nothing where it says nothing.

    Args:
        about: the package's metadata.
    """
    expression = about.get("License-Expression")
    if expression and _SPDX.fullmatch(expression):
        return [{"expression": expression}]
    named = [
        classifier.rpartition(" :: ")[2]
        for classifier in about.get_all("Classifier") or []
        if classifier.startswith("License :: ") and classifier != "License :: OSI Approved"
    ]
    words = (about.get("License") or "").strip().splitlines()
    named = named or [word.strip() for word in words[:1] if len(word) <= _MOST_CHARACTERS]
    return [{"license": {"name": name}} for name in dict.fromkeys(named) if name]


def _hash(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]
