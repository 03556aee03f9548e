"""What the checks are told: frozen, keyword-only, strict about what it is given."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from deploy.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class BatterySettings:
    """How the checks attack.

    Attributes:
        images: how many are attacked.
        size_px: side of the patch; half of it and twice it are tried too.
        steps: of the white-box attack; doubled in one check.
        queries: of the gradient-free attack, per image.
        batch_size: images a step.
        seed: of all starts.

    Raises:
        InputError: a value under its least.
    """

    images: int = 100
    size_px: int = 8
    steps: int = 100
    queries: int = 300
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            *(("images", 8), ("size_px", 2), ("steps", 2)),
            *(("queries", 10), ("batch_size", 1), ("seed", 0)),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"The checks' {name} must be at least {least}, got {value!r}.")

    def as_record(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return asdict(self)
