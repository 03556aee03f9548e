"""Records: one JSON file per result, with everything that belongs to its numbers."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import sha256_of_bytes, write_atomic
from .host import host_facts
from .strict_json import json_bytes, read_json

FORMAT_VERSION = 1
"""Of a record; another version is refused."""

PACKAGES = (
    "qadtr",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "brevitas",
    "onnx",
    "onnx-ir",
    "qonnx",
    "scikit-learn",
    "tensorrt",
)
"""Packages whose version a record names where they are installed."""

_KIND = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_HASH_DIGITS = 16
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_WORDS_LENGTH = 120
"""Characters, at most, between kind and hash: 255 bytes are what file systems take."""
_KEYS = ("format_version", "kind", "payload", "provenance")


def provenance(
    *,
    repository: Path | None = None,
    seed: int | None = None,
    config: Mapping[str, Any] | None = None,
    argv: Sequence[str] | None = None,
    **more: object,
) -> dict[str, Any]:
    """Return where a result comes from, as JSON values.

    Args:
        repository: the git checkout that the code runs from; commit and dirty are None without
            one, or where it is not a checkout.
        seed: of the run.
        config: the resolved configuration.
        argv: the command, ``sys.argv`` where None. Folders of absolute paths are left out of it
            ("…/NAME"): they mean nothing on another machine.
        more: further facts under their own names (data set, engine, what was hashed).

    Raises:
        InputError: a name in ``more`` that is already taken.
    """
    commit, dirty = (None, None) if repository is None else _commit_of(Path(repository))
    facts: dict[str, Any] = {
        "commit": commit,
        "dirty": dirty,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "config": None if config is None else dict(config),
        "command": [without_folder(word) for word in (sys.argv if argv is None else argv)],
        "python": platform.python_version(),
        "packages": _installed_packages(),
        "host": host_facts().as_record(),
    }
    taken = sorted(facts.keys() & more.keys())
    if taken:
        raise InputError(f"provenance already has {', '.join(taken)}; use other names")
    return facts | more


def without_clock(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return a provenance without its date, which differs between runs of the same command."""
    return {name: value for name, value in provenance.items() if name != "date"}


def write_record(
    directory: Path, kind: str, payload: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Path:
    """Write one result to ``directory``/KIND-WORDS-HASH.json, atomically, and return that path.

    WORDS name the model and the patch of the payload, where it has them. HASH is of the whole
    content: equal records share one file, and reading detects a record that was edited.

    Args:
        directory: made if missing.
        kind: such as "attack-success": lower-case words with dashes.
        payload: the result, JSON values.
        provenance: from :func:`provenance`.

    Raises:
        InputError: a kind of another form, something JSON cannot hold, or a place not writable.
    """
    if not _KIND.fullmatch(kind):
        raise InputError(
            f"expected a kind of lower-case words with dashes, such as 'latency', got {kind!r}"
        )
    data = json_bytes(
        {
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "payload": dict(payload),
            "provenance": dict(provenance),
        }
    )
    words = [kind, *_subject_of(payload), sha256_of_bytes(data)[:_HASH_DIGITS]]
    path = Path(directory) / f"{'-'.join(words)}.json"
    write_atomic(path, data)
    return path


def read_records(directory: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the records of a folder, oldest first, all kinds or one.

    Returns:
        dicts with format_version, kind, payload and provenance; empty where the folder has none.

    Raises:
        InputError: the folder is missing, or a file in it is damaged, edited or of an unknown
            version; files of every kind are checked.
    """
    if not Path(directory).is_dir():
        raise InputError(f"{directory} is not a folder; expected the records of a run in it")
    found = _record_files(directory)
    return [record for _, record in found if kind is None or record["kind"] == kind]


def records_so_far(directory: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """As :func:`read_records`, but empty where there is no folder yet."""
    return read_records(directory, kind) if Path(directory).is_dir() else []


def published_records(directory: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """As :func:`records_so_far`, for published results: calls :func:`require_clean` of each."""
    found = _record_files(directory) if Path(directory).is_dir() else []
    for path, record in found:
        require_clean(record["provenance"], path)
    return [record for _, record in found if kind is None or record["kind"] == kind]


def require_clean(provenance: Mapping[str, Any], path: Path) -> None:
    """Refuse to publish the result of a dirty tree: its code is in no commit.

    Args:
        provenance: of the result.
        path: its file, for the error.

    Raises:
        InputError: the provenance records uncommitted changes.
    """
    if provenance.get("dirty"):
        raise InputError(
            f"{path} was made from a dirty tree (commit {str(provenance.get('commit'))[:12]} "
            "with uncommitted changes), so it is not published; commit first and create the "
            "result again, or remove it"
        )


def read_record(path: Path) -> dict[str, Any]:
    """Return the record in one file; errors as :func:`read_records`."""
    record = read_json(path)
    if not isinstance(record, dict) or "format_version" not in record:
        raise InputError(f"{path} is not a record: it has no format_version")
    if record["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {record['format_version']!r}, but this qadtr reads "
            f"{FORMAT_VERSION}; use the qadtr that wrote it, or create the result again"
        )
    if sorted(record) != sorted(_KEYS):
        raise InputError(f"{path} has the keys {sorted(record)}, expected {sorted(_KEYS)}")
    for key in ("payload", "provenance"):
        if not isinstance(record[key], dict):
            raise InputError(f"{path}: expected {key} as an object")
    # The words between are for people: older files do not have them.
    kind, digest = record["kind"], sha256_of_bytes(json_bytes(record))[:_HASH_DIGITS]
    if not path.stem.startswith(f"{kind}-") or not path.stem.endswith(f"-{digest}"):
        raise InputError(
            f"{path} does not match its name, because its content gives {kind}-{digest}.json: it "
            "was edited, renamed or damaged; create the result again"
        )
    return record


def _record_files(directory: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Each record of a folder with its file, oldest first."""
    paths = [path for path in sorted(Path(directory).glob("*.json")) if path.name[0] != "."]
    found = [(path, read_record(path)) for path in paths]
    return sorted(found, key=lambda one: _date(one[1]))


def oldest_first(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records in the order in which they were made; those without a date come first."""
    return sorted(records, key=_date)


def _date(record: Mapping[str, Any]) -> str:
    return str(record["provenance"].get("date", ""))


def _subject_of(payload: Mapping[str, Any]) -> list[str]:
    """The model and the patch of a payload, in words that a file's name may hold."""
    model, patch = payload.get("model"), payload.get("patch")
    found: list[object] = []
    if isinstance(model, Mapping):
        widths = model.get("bit_widths") or [model.get("bit_width")]
        found += [model.get("network"), model.get("defense"), payload.get("law")]
        if widths != [None]:
            found.append(f"{'-'.join(map(str, widths))}bit")
        found.append(model.get("engine"))
    elif isinstance(model, str):
        found.append(model.removesuffix(".onnx"))
    found.append(patch.get("name") if isinstance(patch, Mapping) else patch)
    words = [_NOT_IN_NAMES.sub("-", str(one)).strip("-.") for one in found if one]
    return [word for word in ["-".join(words)[:_WORDS_LENGTH].strip("-.")] if word]


def _commit_of(repository: Path) -> tuple[str | None, bool | None]:
    try:
        commit = _git(repository, "rev-parse", "HEAD")
        return commit.strip(), bool(_git(repository, "status", "--porcelain").strip())
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, no commit yet
        return None, None


def _git(repository: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(repository), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout


def _installed_packages() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def without_folder(word: str) -> str:
    """A word of a command, its option's or setting's value too, without an absolute path's folder.

    Example:
        >>> without_folder('--set=training.weights="/data/resnet.safetensors"')
        '--set=training.weights="…/resnet.safetensors"'
    """
    name, equals, value = word.partition("=")
    if equals and not Path(word).is_absolute():
        return f"{name}={without_folder(value)}"
    quote = next((q for q in "\"'" if len(word) > 1 and word[0] == word[-1] == q), "")
    path = Path(word[1:-1] if quote else word)
    return f"{quote}…/{path.name}{quote}" if path.is_absolute() else word
