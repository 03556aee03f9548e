"""Scales and BatchNorm statistics from images, without training.

Activation scales: for every bit-width the scale with the least squared error over the values that
the float network gives the tensors that share it.  BatchNorm: the mean and variance of what each
layer is given at that bit-width, layer by layer in the order of the network (the statistics of
quantized layers are not those of float ones, at 2 bits not even near them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.core.errors import InputError, NothingToEvaluate
from training.prediction import pixels_of
from training.quantize.network import Network
from training.quantize.norms import SwitchableBatchNorm2d
from training.quantize.plan import GATE_SCALE, IMAGE_SCALE, Codes
from training.quantizers import FLOAT, SMALLEST_SCALE, BitWidthSwitch, LearnedScale, WeightQuantizer

SAMPLES = 20_000
"""Values of each tensor, over all images, that its scale is fitted to."""

_FACTORS = np.geomspace(0.02, 1.0, 60)
"""Tried ranges, as shares of the largest value."""


def calibrate(
    network: Network, images: NDArray[np.uint8], *, batch_size: int = 64, norms: bool = True
) -> None:
    """Set every scale from ``images`` and re-estimate BatchNorm at each integer bit-width.

    Args:
        network: with the bit-width 32 among its own; left in evaluation mode.
        images: uint8 N×C×H×W, some hundred of the training set.
        batch_size: images at once; N is cut to whole batches where it is larger.
        norms: also re-estimate BatchNorm.

    Raises:
        NothingToEvaluate: no images.
        InputError: the network has no float mode.
    """
    if len(images) == 0:
        raise NothingToEvaluate("calibration needs images, and there are none")
    if FLOAT not in network.bit_widths:
        raise InputError("calibration fits scales to the float mode; give the bit-widths 32 too")
    network.train(False)
    fit_scales(network, images, batch_size=batch_size)
    network.store_scales()
    if norms:
        for bits in network.bit_widths:
            if bits != FLOAT:
                estimate_norms(network, images, bits, batch_size=batch_size)


@torch.no_grad()
def fit_scales(network: Network, images: NDArray[np.uint8], *, batch_size: int) -> None:
    """The activation scales of every integer bit-width."""
    wanted: dict[str, list[tuple[str, Codes]]] = {}
    for step in network.plan.steps:
        codes = step.codes
        constant = codes is None or codes.scale in (IMAGE_SCALE, GATE_SCALE)
        made = step.kind in ("convolution", "add", "gate", "table", "average pool")
        if codes is not None and not constant and made and not codes.pooled:
            wanted.setdefault(codes.scale, []).append((step.name, codes))
    names = [name for members in wanted.values() for name, _ in members]
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    count = max(1, SAMPLES // sum(1 for _ in _batches(images, batch_size)))
    generator = torch.Generator().manual_seed(0)
    with network.at(FLOAT):
        for some in _batches(images, batch_size):
            pixels = pixels_of(network, some, channels_last=False)
            for name, value in network.run(pixels, keep=names).items():
                if name in found:
                    flat = value.flatten()
                    if len(flat) > count:
                        flat = flat[torch.randint(len(flat), (count,), generator=generator)]
                    found[name].append(flat)
    for name, members in wanted.items():
        scale = cast(LearnedScale, network.scale_named(name))
        values = [(torch.cat(found[step]).double().numpy(), codes) for step, codes in members]
        for bits in network.bit_widths:
            if bits == FLOAT:
                continue
            with network.at(bits):
                width = scale.codes_bits()
            best = _best_scale(network.switch, values, width)
            cast(Tensor, getattr(scale, f"scale_{bits}")).fill_(max(best, SMALLEST_SCALE))
            cast(Tensor, getattr(scale, f"ready_{bits}")).fill_(True)


def _best_scale(
    switch: BitWidthSwitch, members: list[tuple[NDArray[np.float64], Codes]], bits: int
) -> float:
    largest = max(float(np.abs(values).max(initial=0.0)) for values, _ in members)
    if largest == 0.0:
        return 1.0
    best, least = largest, np.inf
    for factor in _FACTORS:
        error, scale = 0.0, 0.0
        signed = any(codes.signed for _, codes in members)
        scale = largest * factor / switch.code_range(bits, signed=signed)[1]
        for values, codes in members:
            low, high = switch.code_range(bits, signed=codes.signed)
            rounded = np.clip(np.rint(values / scale), low, high) * scale
            error += float(np.square(rounded - values).mean())
        if error < least:
            best, least = scale, error
    return best


@torch.no_grad()
def estimate_norms(
    network: Network, images: NDArray[np.uint8], bits: int, *, batch_size: int = 64
) -> None:
    """BatchNorm's running statistics at one bit-width: plain means over the batches."""
    with network.at(bits), _estimating(network):
        for some in _batches(images, batch_size):
            network(pixels_of(network, some, channels_last=False))
    network.store_scales()  # those of an exact network have the gain of BatchNorm in them


@contextmanager
def _estimating(network: Network) -> Iterator[None]:
    norms = [m for m in network.modules() if isinstance(m, SwitchableBatchNorm2d)]
    inner = [norm.active() for norm in norms]
    # An exact network's weights have the gain in them, except in training.
    weights = [m for m in network.modules() if isinstance(m, WeightQuantizer)]
    weights = weights if network.switch.spec.exact else []
    before: Mapping[nn.BatchNorm2d, float | None] = {one: one.momentum for one in inner}
    try:
        for norm, one in zip(norms, inner, strict=True):
            norm.training = one.training = True
            one.momentum = None
            # The first batch then replaces the statistics; until it does, they are as they were.
            cast(Tensor, one.num_batches_tracked).zero_()
        for quantizer in weights:
            quantizer.training = True
        yield
    finally:
        for quantizer in weights:
            quantizer.training = False
        for norm, one in zip(norms, inner, strict=True):
            norm.training = one.training = False
            one.momentum = before[one]


def _batches(images: NDArray[np.uint8], batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """Full batches; where there is not one, all images."""
    whole = max(batch_size, len(images) // batch_size * batch_size)
    for first in range(0, min(len(images), whole), batch_size):
        yield images[first : first + batch_size]
