"""Scales and BatchNorm statistics from images, without training.

Weight scales: each channel gets the scale with the least squared error.  Activation scales: each
bit-width gets the scale with the least squared error over the values that the tensors that share it
have in the float network.

BatchNorm, from 4 bits up: the trained statistics are corrected by what quantization does to them on
these images: mean + (m_b - m_32) and variance · v_b / v_32, with m and v the statistics of the
images at bit-width b and in float.  The difference between some hundred images and the training set
is in both, and cancels.  Below 4 bits the statistics have little to do with the float ones, and
those of the images are used.  The layers are taken in the order of the network, and each layer
reads batches that are normalized by their own statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.core.errors import InputError, NothingToEvaluate
from training.data.image_set import ImageSet
from training.prediction import pixels_of
from training.quantize.network import Network
from training.quantize.norms import SwitchableBatchNorm2d
from training.quantize.plan import GATE_SCALE, IMAGE_SCALE, Codes
from training.quantizers import FLOAT, SMALLEST_SCALE, BitWidthSwitch, LearnedScale
from training.weight_quantizer import WeightQuantizer

SAMPLES = 20_000
"""Values of each tensor, over all images, that its scale is fitted to."""

Norms = Literal["correct", "estimate", "keep"]
"""What becomes of BatchNorm's statistics."""

LEAST_CORRECTED = 4
"""Bit-width from which on the trained statistics are corrected, and not replaced."""

_COARSE = np.geomspace(0.02, 1.0, 18)
_FINE = np.geomspace(0.82, 1.22, 9)
"""Tried ranges, as shares of the largest value, and around the best of them."""

_Statistics = list[tuple[Tensor, Tensor]]
"""Mean and variance, (C,) each, of each BatchNorm."""


def calibrate(
    network: Network,
    images: ImageSet | NDArray[np.uint8],
    *,
    batch_size: int = 64,
    norms: Norms = "correct",
) -> None:
    """Set every scale from ``images`` and BatchNorm's statistics at each integer bit-width.

    Args:
        network: must have the bit-width 32; left in evaluation mode.
        images: an :class:`ImageSet` or uint8 N×C×H×W, some hundred of the training set.
        batch_size: images at once; where N is larger, it is cut to whole batches.
        norms: "correct" the trained statistics by what quantization changes; "estimate" them from
            the images at every bit-width, including 32, where they were never trained; "keep"
            them.

    Raises:
        NothingToEvaluate: no images.
        InputError: the network has no float mode.

    Example:
        >>> qadtr.calibrate(network, training_set)
        >>> with network.at(8):
        ...     network(torch.from_numpy(training_set.images[:2]).float()).shape
        torch.Size([2, 3])
    """
    if isinstance(images, ImageSet):
        images = images.images
    if len(images) == 0:
        raise NothingToEvaluate("calibration needs at least one image, got none")
    if FLOAT not in network.bit_widths:
        raise InputError("calibration fits scales to the float mode; add 32 to the bit-widths")
    network.train(False)
    network.calibrated = True
    if norms == "estimate":
        estimate_norms(network, images, FLOAT, batch_size=batch_size)
    fit_scales(network, images, batch_size=batch_size)
    # An exact network's scales are powers of two that its accumulator's bound decides.
    fitted = not network.switch.spec.exact
    network.store_scales(fitted=fitted)
    if norms == "keep" or not any(isinstance(m, SwitchableBatchNorm2d) for m in network.modules()):
        return
    integer = [bits for bits in network.bit_widths if bits != FLOAT]
    trained = _statistics(network, FLOAT)
    corrected = [bits for bits in integer if norms == "correct" and bits >= LEAST_CORRECTED]
    if corrected:
        estimate_norms(network, images, FLOAT, batch_size=batch_size)
    seen = _statistics(network, FLOAT)
    _set_statistics(network, FLOAT, trained)
    for bits in integer:
        estimate_norms(network, images, bits, batch_size=batch_size)
        if bits in corrected:
            own = _statistics(network, bits)
            _set_statistics(network, bits, _corrected(trained, own, seen))
    # The weights of an exact network include the gain of BatchNorm.
    network.store_scales(fitted=fitted)


def _corrected(trained: _Statistics, own: _Statistics, seen: _Statistics) -> _Statistics:
    """``trained``, corrected by the difference between the bit-width's ``own`` statistics and the
    float ones ``seen``."""
    found = []
    for (mean, variance), (own_mean, own_variance), (seen_mean, seen_variance) in zip(
        trained, own, seen, strict=True
    ):
        # A channel that is constant on these images gives no correction.
        ratio = torch.where(seen_variance > 0.0, own_variance / seen_variance, 1.0)
        found.append((mean + own_mean - seen_mean, variance * ratio))
    return found


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

    def sample(name: str, value: Tensor) -> None:
        if name in found:
            flat = value.flatten()
            if len(flat) > count:
                flat = flat[torch.randint(len(flat), (count,), generator=generator)]
            found[name].append(flat)

    count = max(1, SAMPLES // sum(1 for _ in _batches(images, batch_size)))
    generator = torch.Generator().manual_seed(0)
    with network.at(FLOAT):
        for some in _batches(images, batch_size):
            network.run(pixels_of(network, some), seen=sample)
    for name, members in wanted.items():
        scale = cast(LearnedScale, network.scale_named(name))
        values = [(torch.cat(found[step]).cpu().numpy(), codes) for step, codes in members]
        for bits in network.bit_widths:
            if bits == FLOAT:
                continue
            with network.at(bits):
                width = scale.codes_bits()
            best = _best_scale(network.switch, values, width)
            cast(Tensor, getattr(scale, f"scale_{bits}")).fill_(max(best, SMALLEST_SCALE))
            cast(Tensor, getattr(scale, f"ready_{bits}")).fill_(True)


def _best_scale(
    switch: BitWidthSwitch, members: list[tuple[NDArray[np.float32], Codes]], bits: int
) -> float:
    largest = max(float(np.abs(values).max(initial=0.0)) for values, _ in members)
    if largest == 0.0:
        return 1.0
    top = switch.code_range(bits, signed=any(codes.signed for _, codes in members))[1]

    def error(scale: float) -> float:
        total = 0.0
        for values, codes in members:
            code = values * np.float32(1.0 / scale)
            rounded = np.clip(np.rint(code), *switch.code_range(bits, signed=codes.signed))
            rounded -= code
            total += float(np.dot(rounded, rounded)) / len(rounded)
        return total * scale * scale

    best = min(_COARSE * (largest / top), key=error)
    return float(min(_FINE * best, key=error))


@torch.no_grad()
def estimate_norms(
    network: Network, images: NDArray[np.uint8], bits: int, *, batch_size: int = 64
) -> None:
    """BatchNorm's running statistics at one bit-width: plain means over the batches."""
    with network.at(bits), _estimating(network):
        for some in _batches(images, batch_size):
            network(pixels_of(network, some))


def _norms(network: Network, bits: int) -> list[nn.BatchNorm2d]:
    found = [m for m in network.modules() if isinstance(m, SwitchableBatchNorm2d)]
    return [cast(nn.BatchNorm2d, one.norms[str(bits)]) for one in found]


def _statistics(network: Network, bits: int) -> _Statistics:
    return [
        (cast(Tensor, n.running_mean).clone(), cast(Tensor, n.running_var).clone())
        for n in _norms(network, bits)
    ]


def _set_statistics(network: Network, bits: int, statistics: _Statistics) -> None:
    for norm, (mean, variance) in zip(_norms(network, bits), statistics, strict=True):
        cast(Tensor, norm.running_mean).copy_(mean)
        cast(Tensor, norm.running_var).copy_(variance)


@contextmanager
def _estimating(network: Network) -> Iterator[None]:
    norms = [m for m in network.modules() if isinstance(m, SwitchableBatchNorm2d)]
    inner = [norm.active() for norm in norms]
    # An exact network's weights include the gain, except in training.
    weights = [m for m in network.modules() if isinstance(m, WeightQuantizer)]
    weights = weights if network.switch.spec.exact else []
    before: Mapping[nn.BatchNorm2d, float | None] = {one: one.momentum for one in inner}
    try:
        for norm, one in zip(norms, inner, strict=True):
            norm.training = one.training = True
            one.momentum = None
            # The first batch then replaces the statistics; until then they stay unchanged.
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
    """Full batches; where there is no full batch, all images."""
    whole = max(batch_size, len(images) // batch_size * batch_size)
    for first in range(0, min(len(images), whole), batch_size):
        yield images[first : first + batch_size]
