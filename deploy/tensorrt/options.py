"""How to build an engine, and which of the two products has which option."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from .bindings import Flavour

CURRENT = "current"
"""The compute capability of the machine's GPU."""

COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
"""The default of TensorRT-RTX: Ampere, Ada and Blackwell, in one file."""

HARDWARE: Mapping[str, str] = {
    "this-gpu": "NONE",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
    "ampere-plus": "AMPERE_PLUS",
}
"""Values of ``hardware``, and TensorRT's names of them."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build an engine.

    Attributes:
        batch_sizes: least, usual and largest number of images per call; kernels are chosen for the
            usual one. An engine of a file that fixes N is built for that N.
        optimization_level: 0 to 5; more searches longer for kernels, None leaves the default.
        compute_capabilities: TensorRT-RTX: such as "8.6", or "current" alone. None: all of
            :data:`COMPUTE_CAPABILITIES`.
        hardware: TensorRT: on which other GPUs the engine may run, a key of :data:`HARDWARE`.
        version_compatible: TensorRT: whether later versions may run the engine. Their lean
            runtime is left out of the file, which would otherwise hold code for the host.
        timing_cache: TensorRT: a file of kernel timings, read if it is there and written back.
    """

    batch_sizes: tuple[int, int, int] = (1, 64, 64)
    optimization_level: int | None = None
    compute_capabilities: tuple[str, ...] | None = None
    hardware: str = "this-gpu"
    version_compatible: bool = False
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        least, usual, largest = self.batch_sizes
        if not 1 <= least <= usual <= largest:
            raise UsageError(
                "expected batch sizes in ascending order (least, usual and largest) of 1 or "
                f"more, got {least}, {usual}, {largest}"
            )
        if self.optimization_level not in (None, 0, 1, 2, 3, 4, 5):
            raise UsageError(
                f"expected an optimization level of 0 to 5, got {self.optimization_level}"
            )
        if self.hardware not in HARDWARE:
            raise UsageError(f"hardware {self.hardware!r} is unknown; known: {', '.join(HARDWARE)}")
        wanted = self.compute_capabilities
        if wanted is not None and (not wanted or len(set(wanted)) != len(wanted)):
            raise UsageError("expected one or more different compute capabilities")
        if wanted is not None and CURRENT in wanted and len(wanted) > 1:
            raise UsageError(
                f"{CURRENT!r} cannot be combined with others: it is the capability of "
                "the GPU of this machine"
            )

    def check_for(self, flavour: Flavour) -> None:
        """Refuse an option that a product does not have.

        Raises:
            UsageError: names the option and the reason.
        """
        refused: tuple[str, ...] = ("compute_capabilities",)
        reason = "TensorRT times kernels on the GPU of this machine and builds for that GPU"
        if flavour.rtx:
            refused = ("hardware", "version_compatible", "timing_cache")
            reason = (
                "TensorRT-RTX builds for the given compute capabilities, compiles the kernels on "
                "the device, and times no kernel during the build"
            )
        for name in refused:
            if getattr(self, name) != getattr(BuildOptions, name):
                raise UsageError(f"{flavour.name} has no option {name}: {reason}")

    def as_record(self, flavour: Flavour) -> dict[str, Any]:
        """The options that this product has, as JSON values, without paths of this machine."""
        own: dict[str, Any] = {
            "hardware": self.hardware,
            "version_compatible": self.version_compatible,
        }
        if flavour.rtx:
            own = {"compute_capabilities": list(self.compute_capabilities or COMPUTE_CAPABILITIES)}
        return {
            "batch_sizes": list(self.batch_sizes),
            "optimization_level": self.optimization_level,
            **own,
        }
