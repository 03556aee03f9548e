"""The origin of a patch set, as its sidecar records it under ``provenance``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from .errors import InputError

if TYPE_CHECKING:
    from typing import Self  # from Python 3.11


class TriedOn(TypedDict):
    """The images that a patch set's indices refer to."""

    name: str
    split: str
    digest: str


class PatchSource(TypedDict, total=False):
    """The network that a patch was made on."""

    network: str
    defense: str
    checkpoint_sha256: str | None
    """None for several networks at once."""
    seed: int | None
    """Of the network's training."""
    bit_widths: list[int]
    """More than one: the patch was made on all of them at once. 32 is float."""
    members: list[dict[str, Any]]
    """The networks, where there are several."""
    engine: str
    """Where an exported model was attacked and not the network."""


@dataclass(frozen=True, kw_only=True)
class PatchOrigin:
    """How a patch set was made; None or empty where it is not recorded.

    Attributes:
        attack: its name; None for a supplied patch.
        settings: of the attack, or of the placing of a supplied patch, resolved.
        seed: of the attack's generator.
        made_on: the split whose images it was optimized on.
        source: the network.
        tried_on: the images that ``image_indices`` refer to.
        area: "px" under the mask, and their "share" of the image.
        run: commit, versions, hardware and time (``deploy.core.records.provenance``).
        more: facts of single attacks, such as ``on_source`` or ``supplied``.
    """

    attack: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    made_on: str | None = None
    source: PatchSource | None = None
    tried_on: TriedOn | None = None
    area: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the sidecar's keys; unknown facts are left out."""
        always = {"attack"} | ({"made_on"} if self.source else set())
        known = {name: getattr(self, name) for name in _TYPES}
        return dict(self.more) | {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in known.items()
            if value not in (None, {}) or name in always
        }

    @classmethod
    def from_json(cls, values: object) -> Self:
        """Read the result of :meth:`to_json`; an unknown key stays in ``more``.

        Raises:
            InputError: a value does not have the type of its key.
        """
        given = _of(values, dict, "provenance")
        told = {
            name: _of(given.get(name), kind, f"provenance.{name}")
            for name, kind in _TYPES.items()
            if given.get(name) is not None
        }
        for name in TriedOn.__annotations__ if "tried_on" in told else ():
            if not isinstance(told["tried_on"].get(name), str):
                raise InputError(f"expected provenance.tried_on.{name} as text")
        return cls(**told, more={key: given[key] for key in given if key not in _TYPES})


_TYPES: Mapping[str, type[Any]] = {
    **dict.fromkeys(("attack", "made_on"), str),
    **dict.fromkeys(("settings", "source", "tried_on", "area", "run"), dict),
    "seed": int,
}


def _of(value: object, kind: type[Any], name: str) -> Any:
    if not isinstance(value, kind):
        words = {str: "text", dict: "an object", int: "a whole number"}[kind]
        raise InputError(f"expected {name} as {words}, got {type(value).__name__}")
    return value
