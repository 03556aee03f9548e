"""The building block of the networks: a convolution and its BatchNorm."""

from __future__ import annotations

from torch import nn


def normed(
    channels_in: int,
    channels_out: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    padding: int | None = None,
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution without bias, by default with "same" padding, and a BatchNorm for it."""
    conv = nn.Conv2d(
        channels_in,
        channels_out,
        kernel,
        stride,
        kernel // 2 if padding is None else padding,
        groups=groups,
        bias=False,
    )
    return conv, nn.BatchNorm2d(channels_out)
