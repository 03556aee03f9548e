"""The layers of a planned network, from its convolutions to the last linear layer."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.exact import Folding
from training.quantize.integers import (
    codes_of,
    folded,
    integer_weights,
    requantized,
    with_bias,
)
from training.quantize.norms import SwitchableBatchNorm2d, bias_on_grid, folding_of
from training.quantize.plan import Codes, Step
from training.quantize.pointwise import Expression, evaluate, evaluate_torch
from training.quantize.scales import FixedQuantizer, ScaleSource, grid_of
from training.quantized_layers import (
    Convolution,
    quantized_activation,
    quantized_convolution,
    quantized_linear,
    weight_quantizer,
)
from training.quantizers import (
    FLOAT,
    SMALLEST_SCALE,
    STREAM_BITS,
    ActivationQuantizer,
    BitWidthSwitch,
)

MAP_CODE = 64
"""The weight code of a normalization that stands alone, at scale 1/64: the value is 1, the bias is
rounded to a 64th of a code, and no product of two codes and two weights saturates 16 bits."""


class Bias(nn.Module):
    """A bias, and with ``gain`` also a gain, in place of a normalization.

    It is the same at every bit-width and has no statistics that training or calibration would
    change.
    """

    def __init__(self, switch: BitWidthSwitch, channels: int, *, gain: bool = False) -> None:
        super().__init__()
        self.switch = switch
        self.bias = nn.Parameter(torch.zeros(channels))
        self.gain = nn.Parameter(torch.ones(channels)) if gain else None

    def gain_and_bias(self) -> tuple[Tensor, Tensor]:
        """The gain, ones where there is none, and the bias, float32 (C,)."""
        return torch.ones_like(self.bias) if self.gain is None else self.gain, self.bias

    def forward(
        self, x: Tensor, accumulator_scale: Tensor | None, *, folded: bool = False
    ) -> Tensor:
        """``x`` N×C×H×W times the gain plus the bias, on the grid of the accumulator where there is
        one; ``folded`` has no effect here, because the weights never include this gain."""
        gain, bias = self.gain_and_bias()
        if accumulator_scale is not None:
            bias = bias_on_grid(bias, accumulator_scale * gain.abs())
        if self.gain is None:
            return x + bias.view(1, -1, 1, 1)
        return torch.addcmul(bias.view(1, -1, 1, 1), x, gain.view(1, -1, 1, 1))


class PlannedConvolution(nn.Module):
    """Convolution → normalization or bias → rectifier → codes, as a step of the plan states.

    With weights "map" there are no weights: each channel is normalized separately; in the exported
    file this is a convolution with the constant 1.
    """

    def __init__(
        self,
        switch: BitWidthSwitch,
        step: Step,
        source: ScaleSource,
        output: ActivationQuantizer | FixedQuantizer,
    ) -> None:
        super().__init__()
        found = step.attributes
        channels_in, channels_out = found["channels"]
        self.switch = switch
        self._source = (source,)
        self.weights = str(found["weights"])
        self.rectified = bool(found["rectified"])
        self.ceiling: float | None = found["ceiling"]
        assert step.codes is not None
        self.signed = step.codes.signed
        top, left, bottom, right = found["padding"]
        self.border = () if (top, left) == (bottom, right) else (left, right, top, bottom)
        self.conv: Convolution | None = None
        if self.weights != "map":
            self.conv = quantized_convolution(
                switch,
                channels_in,
                channels_out,
                kernel=tuple(found["kernel"]),
                stride=tuple(found["stride"]),
                padding=(0, 0) if self.border else (top, left),
                dilation=tuple(found["dilation"]),
                groups=found["groups"],
                fixed_bits=STREAM_BITS if self.weights == "wide" else None,
            )
            if switch.spec.exact:
                weight_quantizer(self.conv).folding = self.folding
        self.norm: SwitchableBatchNorm2d | Bias
        if found["norm"]:
            self.norm = SwitchableBatchNorm2d(switch, channels_out)
            for one in self.norm.norms.values():
                cast(nn.BatchNorm2d, one).eps = float(found["epsilon"])
        else:
            self.norm = Bias(switch, channels_out, gain=self.weights == "map")
        self.output = output
        self.quantize = quantized_activation(output, signed=self.signed)

    @property
    def source(self) -> ScaleSource:
        """The source of the scale of the codes that the layer reads."""
        return self._source[0]

    @torch.no_grad()
    def folding(self) -> Folding:
        """The folding for the weight quantizer of an exact network, at the active bit-width."""
        gain, bias = self.norm.gain_and_bias()
        return folding_of(gain, bias, self.source)

    def accumulator_scale(self) -> Tensor | None:
        """Scale of the integer accumulator per output channel, (C,); None in float."""
        if not self.switch.quantized:
            return None
        scale = self.source.value()
        if self.conv is None:
            return (scale * (1.0 / MAP_CODE)).expand(len(self.norm.gain_and_bias()[0])).detach()
        return (scale * weight_quantizer(self.conv).value_for(self.conv.weight)).detach()

    def forward(self, x: Tensor) -> Tensor:
        trains = self.training or self.norm.training
        if trains or not self.switch.quantized or self.switch.spec.exact:
            return cast(Tensor, self.quantize(self.rectify(self.sums(x))))
        return self.on_codes(x)

    def on_codes(self, x: Tensor) -> Tensor:
        """The output as an engine computes it, codes times their scale (:mod:`.integers`)."""
        scale_in = self.source.value().detach()
        accumulator = self.accumulator_scale()
        assert accumulator is not None
        gain, bias = (t.detach() for t in self.norm.gain_and_bias())
        codes = codes_of(x, scale_in)
        if self.border:
            codes = F.pad(codes, self.border)
        if self.conv is None:
            scales = torch.full_like(gain, 1.0 / MAP_CODE)
            dead = torch.zeros_like(gain, dtype=torch.bool)
        else:
            scales = weight_quantizer(self.conv).value().detach()
            weights = integer_weights(self.conv)
            dead = ~weights.flatten(1).any(dim=1)
        grid = grid_of(
            self.output, floor=0.0 if self.rectified and self.signed else None, ceiling=self.ceiling
        )
        found = folded(
            gain=gain,
            bias=bias_on_grid(bias, accumulator * gain.abs()),
            scale_in=scale_in,
            scales=scales,
            step=grid.step,
            dead=dead,
        )
        sign = found.sign.view(-1, 1, 1, 1)
        if self.conv is None:
            total = codes * (sign * MAP_CODE).view(1, -1, 1, 1)
        else:
            total = self.conv._conv_forward(codes, weights * sign, None)
        total = with_bias(total, found.bias)
        return requantized(total, found.multiplier.view(1, -1, 1, 1), grid)

    def sums(self, x: Tensor) -> Tensor:
        """The input of the rectifier, N×C×H×W."""
        if self.border:
            x = F.pad(x, self.border)
        scale = None if self.norm.training else self.accumulator_scale()
        folded = self.switch.spec.exact and not self.training
        if self.conv is None:
            return self.norm(x, scale, folded=folded)
        if self.norm.training or self.switch.quantized:
            return cast(Tensor, self.norm(self.conv(x), scale, folded=folded))
        return cast(Tensor, self.conv(x, *self.norm.gain_and_bias()))

    def rectify(self, y: Tensor) -> Tensor:
        """The clamp outside of a quantizer: unsigned codes and the float mode have their own."""
        if not self.rectified:
            return y
        if self.ceiling is not None:
            return F.hardtanh(y, 0.0, self.ceiling)
        return F.relu(y) if self.signed else y


class Table(nn.Module):
    """A function of codes: at most 256 entries, computed in float64.

    In evaluation the codes are the table's; training and every gradient use the function itself.
    """

    def __init__(
        self,
        switch: BitWidthSwitch,
        expression: Expression,
        source: ScaleSource,
        codes_in: Codes,
        codes_out: Codes,
        scale_out: ScaleSource,
        output: nn.Module,
    ) -> None:
        super().__init__()
        self.switch = switch
        self.expression = expression
        self._source, self._scale_out = (source,), (scale_out,)
        self.codes_in, self.codes_out = codes_in, codes_out
        self.quantize = quantized_activation(output, signed=codes_out.signed)

    @torch.no_grad()
    def entries(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The codes of the function, int64, for each possible input code in ascending order."""
        low, high = self._codes_in()
        scale, to = (
            np.float64(np.float32(s[0].value().item())) for s in (self._source, self._scale_out)
        )
        values = evaluate(self.expression, np.arange(low, high + 1) * scale)
        width = self._scale_out[0].codes_bits()
        bounds = self.switch.code_range(width, signed=self.codes_out.signed)
        return np.clip(np.rint(values / to), *bounds).astype(np.int64)

    def _codes_in(self) -> tuple[int, int]:
        return self.switch.code_range(self._source[0].codes_bits(), signed=self.codes_in.signed)

    def _function(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.quantize(evaluate_torch(self.expression, x)))

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.switch.quantized:
            return self._function(x)
        with torch.no_grad():
            low, high = self._codes_in()
            table = torch.from_numpy(self.entries()).to(x.device)
            place = torch.round(x / self._source[0].value()).long().clamp(low, high) - low
            hard = table[place].to(x.dtype) * self._scale_out[0].value()
        if not torch.is_grad_enabled():
            return hard
        soft = self._function(x)
        return soft - soft.detach() + hard


class AveragePool(nn.Module):
    """The mean of each window, and its codes."""

    def __init__(
        self, step: Step, source: ScaleSource, output: ActivationQuantizer | FixedQuantizer
    ) -> None:
        super().__init__()
        self._source = (source,)
        self.output = output
        found = step.attributes
        self.kernel, self.stride = tuple(found["kernel"]), tuple(found["stride"])
        top, left, bottom, right = found["padding"]
        self.padding = (left, right, top, bottom)
        assert step.codes is not None
        self.quantize = quantized_activation(output, signed=step.codes.signed)

    def forward(self, x: Tensor) -> Tensor:
        if any(self.padding):
            x = F.pad(x, self.padding)
        whole = tuple(x.shape[2:]) == self.kernel
        switch = self.output.switch
        if switch.quantized and not (self.training or switch.spec.exact):
            return self._on_codes(x, whole=whole)
        mean = (
            x.mean(dim=(2, 3), keepdim=True) if whole else F.avg_pool2d(x, self.kernel, self.stride)
        )
        return cast(Tensor, self.quantize(mean))

    def _on_codes(self, x: Tensor, *, whole: bool) -> Tensor:
        """The average as QLinearGlobalAveragePool computes it, or a convolution with ones of scale
        1/n."""
        scale, grid = self._source[0].value().detach(), grid_of(self.output)
        codes, positions = codes_of(x, scale), self.kernel[0] * self.kernel[1]
        count = torch.tensor(float(positions), device=x.device)
        if whole:
            total = codes.sum(dim=(2, 3), keepdim=True)
            return requantized(total, scale / (grid.step * count), grid)
        total = F.avg_pool2d(codes, self.kernel, self.stride, divisor_override=1)
        return requantized(total, (scale * (1.0 / count)) / grid.step, grid)


class Gate(nn.Module):
    """The product with a gate, on the scale of the gated tensor."""

    def __init__(self, output: nn.Module, *, signed: bool) -> None:
        super().__init__()
        self.quantize = quantized_activation(output, signed=signed)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return cast(Tensor, self.quantize(x * gate))


class Add(nn.Module):
    """The sum, its rectifier, and its codes."""

    def __init__(self, step: Step, output: ActivationQuantizer) -> None:
        super().__init__()
        self.rectified = bool(step.attributes.get("rectified", False))
        self.ceiling: float | None = step.attributes.get("ceiling")
        self.signed = output.signed
        self.quantize = quantized_activation(output, signed=output.signed)

    def forward(self, *terms: Tensor) -> Tensor:
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        if self.ceiling is not None:
            total = F.hardtanh(total, 0.0, self.ceiling)
        elif self.rectified and self.signed:
            total = F.relu(total)
        return cast(Tensor, self.quantize(total))


class Requantize(nn.Module):
    """8-bit codes of a stream as b-bit codes (:class:`training.quantizers.BranchQuantizer`)."""

    def __init__(self, output: nn.Module, *, signed: bool) -> None:
        super().__init__()
        self.quantize = quantized_activation(output, signed=signed)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.quantize(x))


class LastLinear(nn.Module):
    """8-bit codes → 8-bit linear layer → float logits.

    With ``identity`` the layer serves networks that do not end in a linear layer, and starts as 1.
    """

    def __init__(
        self,
        switch: BitWidthSwitch,
        source: ScaleSource,
        features: int,
        classes: int,
        *,
        identity: bool,
    ) -> None:
        super().__init__()
        self.switch = switch
        self._source = (source,)
        self.linear = quantized_linear(switch, features, classes)
        self.bias = nn.Parameter(torch.zeros(classes))
        if identity:
            weight_quantizer(self.linear).fixed_scale = 1.0 / MAP_CODE
        if switch.spec.exact:
            weight_quantizer(self.linear).folding = self.folding

    @torch.no_grad()
    def folding(self) -> Folding:
        """The folding for the weight quantizer of an exact network, at the active bit-width."""
        return folding_of(None, self.bias, self._source[0])

    def accumulator_scale(self) -> Tensor:
        """Scale of the integer accumulator per class, (classes,)."""
        scales = self._source[0].value() * weight_quantizer(self.linear).value()
        return scales.detach().clamp_min(SMALLEST_SCALE * SMALLEST_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(x, 1)
        if self.training or self.switch.active == FLOAT:
            return cast(Tensor, self.linear(x) + self.bias)
        scale = self.accumulator_scale()
        if self.switch.spec.exact:
            return cast(Tensor, self.linear(x) + bias_on_grid(self.bias, scale))
        # As an engine computes it: integers, and one multiplication.
        codes = codes_of(x, self._source[0].value())
        total = F.linear(codes, integer_weights(self.linear))
        bias = bias_on_grid(self.bias.detach(), scale)
        return with_bias(total, torch.round(bias.double() / scale.double())) * scale
