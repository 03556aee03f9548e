"""The description of a network, in one class from the config to the checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Strict, model_validator

from deploy.core.bit_widths import FLOAT as FLOAT
from training.validated import AtLeast1, Positive, validated

STREAM_BITS = 8
"""Bit-width of the residual stream, of the first and last layer's weights, and of the pooled
features, whatever the hidden layers' bit-width is."""

ScaleRecipe = Literal["learned", "statistics"]
"""Where a quantizer's scales come from: LSQ's gradient, or a statistic of what is quantized."""

CodesRecipe = Literal["uint8", "int8"]
"""The type that holds every tensor's codes with zero point 0 where they are unsigned: uint8, or
int8, whose unsigned codes end at 127. Signed codes are int8 in both."""


def _widest_first(bit_widths: tuple[int, ...]) -> tuple[int, ...]:
    widths = tuple(sorted(set(bit_widths), reverse=True))
    if not widths or any(b != FLOAT and not 2 <= b <= STREAM_BITS for b in widths):
        raise ValueError(
            f"bit-widths must be 32 (float) or 2 to {STREAM_BITS}, at least one of them; "
            f"got {list(widths)}"
        )
    return widths


def _dotted(layers: Any) -> Any:
    """Bits by dotted layer name: TOML reads an unquoted ``block1.first`` as nested tables."""
    if not isinstance(layers, Mapping):
        return layers
    flat: dict[str, Any] = {}
    for name, bits in layers.items():
        inside = _dotted(bits)
        table = isinstance(bits, Mapping)
        flat |= {f"{name}.{k}": v for k, v in inside.items()} if table else {name: bits}
    return flat


@validated()
class NetworkSettings:
    """Which network, at which bit-widths (32: float): a config's ``[network]``.

    ``exact``: the engine computes bit for bit what the fake-quantized network computes
    (:mod:`training.exact`).  ``mixed``: for a bit-width of the network, the bits of layers that
    have others then, by layer name (:mod:`training.quantize.mixed`).  ``activation_scales`` and
    ``weight_scales``: a :data:`ScaleRecipe` (:class:`training.quantizers.LearnedScale`,
    :class:`training.weight_quantizer.WeightQuantizer`).

    ``codes``: a :data:`CodesRecipe`; with "int8" an unsigned tensor has 7 bits where it would have
    8, and everything else is as it is with "uint8".

    ``name`` is one of the project's networks, or ``package.module:callable`` that gives a float
    ``nn.Module`` (:func:`training.networks.registry.float_network`).  ``mean`` and ``std``: of each
    channel, 0…1: the float network takes (byte / 255 - mean) / std; without them
    (byte - 128) / 64.  ``wide``: patterns (``head.*``) of layers that keep 8 bits.
    """

    name: str
    bit_widths: Annotated[tuple[int, ...], AfterValidator(_widest_first)] = (32, 8, 5, 4, 2)
    exact: bool = False
    mixed: Mapping[
        # A table's keys are text.
        Annotated[int, Strict(False)],
        Annotated[Mapping[str, int], BeforeValidator(_dotted)],
    ] = field(default_factory=dict)
    activation_scales: ScaleRecipe = "learned"
    weight_scales: ScaleRecipe = "statistics"
    codes: CodesRecipe = "uint8"
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    wide: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _exact_has_power_of_two_scales(self) -> NetworkSettings:
        if self.exact and self.weight_scales != "statistics":
            raise ValueError(
                'exact = true needs weight_scales = "statistics", because the weight scales of '
                "an exact network are powers of two that follow from the bound of its accumulator"
            )
        return self

    @model_validator(mode="after")
    def _mean_and_std_belong_together(self) -> NetworkSettings:
        if len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std belong together; give one number of each per channel")
        return self


@validated()
class NetworkSpec(NetworkSettings):
    """What is needed to build a network again: ``network`` of a checkpoint's sidecar.

    ``input_size`` is the side of the square RGB input in pixels, or its (height, width).
    """

    classes: AtLeast1
    input_size: AtLeast1 | tuple[AtLeast1, AtLeast1]

    @classmethod
    def of(
        cls, settings: NetworkSettings, *, classes: int, image_size: tuple[int, int]
    ) -> NetworkSpec:
        """The specification of the network that ``settings`` describe, for these images."""
        height, width = image_size
        size = height if height == width else (height, width)
        return cls(classes=classes, input_size=size, **vars(settings))

    @property
    def settings(self) -> NetworkSettings:
        """The network as a config's ``[network]`` describes it."""
        own = {one.name: getattr(self, one.name) for one in fields(NetworkSettings)}
        return NetworkSettings(**own)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the input in pixels."""
        size = self.input_size
        return (size, size) if isinstance(size, int) else size
