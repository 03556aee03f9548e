"""The network: pixels in, logits out, one switch for the bit-width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from training.network_spec import NetworkSpec
from training.networks.units import ConvUnit, Head
from training.quantized_layers import Convolution, quantized_activation
from training.quantizers import FLOAT, BitWidthSwitch, PixelQuantizer, WeightQuantizer


class Network(nn.Module):
    """A classifier whose bit-width switches at run time.

    ``network(pixels)`` takes float32 N×3×H×W pixel values in [0, 255] (integers, where they come
    from images; an attack's fractional ones are rounded by the first quantizer) and gives float32
    N×classes logits.  The network normalises by (x - 128) / 64, so that the image's bytes are the
    first layer's codes.

    ``blocks`` stand between stem and head: ``ConvUnit``, ``MaxPool``, ``ResidualBlock``,
    ``InvertedResidual`` and ``StreamUnit`` are what :mod:`export.qonnx_from_network` can write.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        switch: BitWidthSwitch,
        pixels: PixelQuantizer,
        stem: ConvUnit,
        blocks: Sequence[nn.Module],
        head: Head,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.switch = switch
        self.pixel_codes = pixels
        self.quantize_pixels = quantized_activation(pixels, signed=True)
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.scales_stored = False
        """Whether evaluation has weight scales: computed, or those of a checkpoint."""

    @property
    def bit_widths(self) -> tuple[int, ...]:
        """The bit-widths that the network has, widest first; 32 is float."""
        return self.spec.bit_widths

    @property
    def bit_width(self) -> int:
        """The active bit-width."""
        return self.switch.active

    def set_bit_width(self, bits: int) -> None:
        """Switch the whole network to ``bits``; ``InputError`` naming those it has."""
        self.switch.set(bits)

    @contextmanager
    def at(self, bits: int) -> Iterator[Self]:
        """The network at ``bits`` inside a ``with`` block, back to where it was after it."""
        before = self.switch.active
        self.switch.set(bits)
        try:
            yield self
        finally:
            self.switch.set(before)

    def for_evaluation(self) -> Self:
        """The network itself, after training: weight scales stored, in evaluation mode."""
        self.store_scales()
        return self.eval()

    def set_products(self, kind: torch.dtype) -> None:
        """Take the products of convolutions in ``kind`` (float32, bfloat16) while training."""
        for layer in self.modules():
            if isinstance(layer, Convolution):
                layer.products = kind

    @torch.no_grad()
    def store_scales(self) -> None:
        """Compute and keep every layer's weight scales at every bit-width, for evaluation."""
        proxies = [layer for layer in self.modules() if hasattr(layer, "weight_quant")]
        for bits in self.bit_widths:
            with self.at(bits):
                for layer in proxies if bits != FLOAT else ():
                    quantizer = getattr(cast(Any, layer).weight_quant, "tensor_quant", None)
                    if isinstance(quantizer, WeightQuantizer):
                        quantizer.store(cast(Tensor, layer.weight))
        self.scales_stored = True

    def forward(self, pixels: Tensor) -> Tensor:
        if not (self.training or self.scales_stored) and self.switch.quantized:
            raise ValueError("the weight scales were never stored; use for_evaluation()")
        x = self.quantize_pixels((pixels - 128.0) * (1.0 / 64.0))
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.head(x))
