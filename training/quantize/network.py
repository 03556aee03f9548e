"""The network of a plan: pixels in, logits out, one switch for the bit-width."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploy.core.errors import InputError
from deploy.core.text import shape_in_words
from training.network_spec import NetworkSpec
from training.quantize.graph import MOVERS
from training.quantize.layers import (
    Add,
    AveragePool,
    Bias,
    Gate,
    LastLinear,
    PlannedConvolution,
    Requantize,
    Table,
)
from training.quantize.mixed import assign_bit_widths
from training.quantize.plan import GATE_SCALE, IMAGE_SCALE, Plan, Step, plan_table
from training.quantize.scales import FixedQuantizer, GateScale, PooledScale, ScaleSource
from training.quantized_layers import Convolution, quantized_activation
from training.quantizers import (
    FLOAT,
    ActivationQuantizer,
    BitWidthSwitch,
    BranchQuantizer,
    LearnedScale,
    PixelQuantizer,
)
from training.weight_quantizer import WeightQuantizer


class Network(nn.Module):
    """A classifier whose bit-width switches at run time.

    ``network(pixels)`` takes float32 N×C×H×W pixel values in [0, 255] (integers where they come
    from images; an attack's fractional ones are rounded by the first quantizer) and returns float32
    N×classes logits.

    Args:
        spec: name, bit-widths and recipes.
        plan: what it computes.

    Raises:
        InputError: ``spec.exact`` or ``spec.mixed`` asks for something that the plan does not have.

    Example:
        >>> network.bit_widths, network.plan.input_shape, network.plan.classes
        ((32, 8, 4), (3, 16, 24), 3)
        >>> with network.at(4):  # back where it was after the block
        ...     network.bit_width
        4
    """

    def __init__(self, spec: NetworkSpec, plan: Plan) -> None:
        super().__init__()
        self.spec = spec
        self.plan = plan
        self.switch = BitWidthSwitch(spec)
        self.scales_stored = False
        """Whether evaluation has weight scales: computed, or those of a checkpoint."""
        self.calibrated = False
        """Whether the scales are those of calibration: nothing was trained since."""
        self.layers = nn.ModuleDict()
        self._scales: dict[str, ScaleSource] = {}
        self._sources: dict[str, ScaleSource] = {}
        self._last_use = _last_use(plan)
        for step in plan.steps:
            layer = self._built(step)
            if layer is not None:
                self.layers[_key(step.name)] = layer
        if spec.exact:
            _require_exact(plan)
        assign_bit_widths(self, spec.mixed)

    # ------------------------------------------------------------------ building

    def scale_named(self, name: str) -> ScaleSource:
        """The scale of this name in the plan, made at the first request; the requesting module
        holds it."""
        if name not in self._scales:
            self._scales[name] = self._made_scale(name)
        return self._scales[name]

    def _made_scale(self, name: str) -> ScaleSource:
        if name == IMAGE_SCALE:
            return PixelQuantizer(self.switch)
        if name == GATE_SCALE:
            return GateScale(self.switch)
        members = [
            one.codes
            for one in self.plan.steps
            if one.codes is not None
            and one.codes.scale == name
            and not one.codes.pooled
            and one.kind != "requantize"
        ]
        last = members[-1]
        return LearnedScale(self.switch, stream=last.wide, signed=last.signed)

    def _output(self, step: Step) -> ActivationQuantizer | FixedQuantizer:
        """The quantizer of a step's output."""
        codes = step.codes
        assert codes is not None
        scale = self.scale_named(codes.scale)
        if codes.scale in (IMAGE_SCALE, GATE_SCALE):
            return FixedQuantizer(self.switch, scale, signed=codes.signed)
        return ActivationQuantizer(self.switch, cast(LearnedScale, scale), signed=codes.signed)

    def _built(self, step: Step) -> nn.Module | None:
        switch, codes = self.switch, step.codes
        sources = [self._sources[name] for name in step.inputs]
        layer: nn.Module | None = None
        if step.kind == "linear":
            found = step.attributes
            identity = found.get("identity", False)
            return LastLinear(
                switch, sources[0], found["features"], found["classes"], identity=identity
            )
        assert codes is not None
        match step.kind:
            case "pixels":
                self._sources[step.name] = self.scale_named(codes.scale)
                return quantized_activation(cast(nn.Module, self._sources[step.name]), signed=True)
            case "requantize":
                stream = cast(LearnedScale, sources[0])
                branch = BranchQuantizer(switch, stream, signed=codes.signed)
                self._sources[step.name] = branch
                return Requantize(branch, signed=codes.signed)
            case "average pool" if codes.pooled:
                pooled = PooledScale(switch, sources[0], codes.pooled)
                self._sources[step.name] = pooled
                output = FixedQuantizer(switch, pooled, signed=codes.signed)
                return AveragePool(step, sources[0], output)
        if step.kind in MOVERS:
            self._sources[step.name] = sources[0]
            return None
        scale = self._sources[step.name] = self.scale_named(codes.scale)
        match step.kind:
            case "convolution":
                layer = PlannedConvolution(switch, step, sources[0], self._output(step))
            case "add":
                layer = Add(step, cast(ActivationQuantizer, self._output(step)))
            case "gate":
                layer = Gate(self._output(step), signed=codes.signed)
            case "average pool":
                layer = AveragePool(step, sources[0], self._output(step))
            case "table":
                before = self.plan.step(step.inputs[0]).codes
                assert before is not None
                layer = Table(
                    switch,
                    step.attributes["expression"],
                    sources[0],
                    before,
                    codes,
                    scale,
                    self._output(step),
                )
        return layer

    @torch.no_grad()
    def load_float(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take the float tensors of a plan (:class:`training.quantize.planning.Planned`) at every
        bit-width."""
        for step in self.plan.steps:
            if step.name not in tensors:
                continue
            own, layer = tensors[step.name], self.layer(step.name)
            if isinstance(layer, LastLinear):
                layer.linear.weight.copy_(own["weight"])
                if "bias" in own:
                    layer.bias.copy_(own["bias"])
                continue
            assert isinstance(layer, PlannedConvolution)
            if layer.conv is not None:
                layer.conv.weight.copy_(own["weight"])
            if isinstance(layer.norm, Bias):
                if "bias" in own:
                    layer.norm.bias.copy_(own["bias"])
                if layer.norm.gain is not None:
                    layer.norm.gain.copy_(own["gain"])
                continue
            for one in layer.norm.norms.values():
                norm = cast(nn.BatchNorm2d, one)
                assert norm.running_mean is not None and norm.running_var is not None
                norm.weight.copy_(own["gain"])
                norm.bias.copy_(own["bias"])
                norm.running_mean.copy_(own["mean"])
                norm.running_var.copy_(own["variance"])

    # ------------------------------------------------------------------ use

    def report(self) -> str:
        """A table of what the network computes on codes: each step, its shape, the bits of its
        weights and codes, and the name of its scale (steps with the same name share it)."""
        return plan_table(self.plan).text()

    def layer(self, name: str) -> nn.Module:
        """The module of a step; ``KeyError`` for a step without one."""
        return self.layers[_key(name)]

    def scale_of(self, name: str) -> ScaleSource:
        """The source of the scale of a step's codes."""
        return self._sources[name]

    @property
    def bit_widths(self) -> tuple[int, ...]:
        """The bit-widths that the network has, widest first; 32 is float."""
        return self.spec.bit_widths

    @property
    def bit_width(self) -> int:
        """The active bit-width."""
        return self.switch.active

    def set_bit_width(self, bits: int) -> None:
        """Switch the whole network to ``bits``; ``InputError`` lists the bit-widths it has."""
        self.switch.set(bits)

    @contextmanager
    def at(self, bits: int) -> Iterator[Self]:
        """The network at ``bits`` inside a ``with`` block; its former bit-width after it."""
        before = self.switch.active
        self.switch.set(bits)
        try:
            yield self
        finally:
            self.switch.set(before)

    def train(self, mode: bool = True) -> Self:
        """As for any module; the stored scales become invalid where weights may change."""
        self.scales_stored = self.scales_stored and not mode
        self.calibrated = self.calibrated and not mode
        return super().train(mode)

    def for_evaluation(self) -> Self:
        """The network itself, after training: weight scales stored, in evaluation mode."""
        self.store_scales()
        return self.eval()

    def is_ready(self, bits: int) -> bool:
        """Whether every activation scale of ``bits`` was set, by training or calibration."""
        return all(m.is_ready(bits) for m in self.modules() if isinstance(m, LearnedScale))

    def untrained(self) -> tuple[int, ...]:
        """The bit-widths that are not ready."""
        return tuple(bits for bits in self.bit_widths if not self.is_ready(bits))

    def finished(self) -> Self:
        """The network itself in evaluation mode, as it is to be saved: with the weight scales of
        calibration if nothing was trained since, else with those of training.

        Raises:
            InputError: some bit-width was neither trained nor calibrated.
        """
        if lacking := self.untrained():
            raise InputError(
                f"the network has no scales at {', '.join(map(str, lacking))} bits; train it at "
                "every bit-width, or set them from images with qadtr.calibrate(network, images)"
            )
        return self.eval() if self.scales_stored else self.for_evaluation()

    @torch.no_grad()
    def store_scales(self, *, fitted: bool = False) -> None:
        """Compute and store every layer's weight scales at every bit-width, for evaluation: those
        of training, or with ``fitted`` those of the least squared error."""
        for bits in self.bit_widths:
            if bits == FLOAT:
                continue
            with self.at(bits):
                for layer in self.modules():
                    proxy = getattr(layer, "weight_quant", None)
                    quantizer = getattr(proxy, "tensor_quant", None)
                    if isinstance(quantizer, WeightQuantizer):
                        quantizer.store(cast(Tensor, cast(Any, layer).weight), fitted=fitted)
        self.scales_stored = True

    def set_products(self, kind: torch.dtype) -> None:
        """Compute the products of convolutions in ``kind`` (float32, bfloat16) while training."""
        for layer in self.modules():
            if isinstance(layer, Convolution):
                layer.products = kind

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.dim() != 4 or tuple(pixels.shape[1:]) != self.plan.input_shape:
            raise InputError(
                f"expected images N×{shape_in_words(self.plan.input_shape)}, got "
                f"{tuple(pixels.shape)}"
            )
        return self.run(pixels)[self.plan.steps[-1].name]

    def run(
        self,
        pixels: Tensor,
        keep: Sequence[str] = (),
        *,
        seen: Callable[[str, Tensor], None] | None = None,
    ) -> dict[str, Tensor]:
        """The logits, and the tensors of the steps in ``keep`` by the names of their steps.

        ``seen`` is called with every step's name and tensor; no tensor is kept for it.
        """
        if not (self.training or self.scales_stored) and self.switch.quantized:
            raise ValueError("the weight scales were never stored; use for_evaluation()")
        values: dict[str, Tensor] = {}
        kept = set(keep) | {self.plan.steps[-1].name}
        for index, step in enumerate(self.plan.steps):
            values[step.name] = self._step(step, [values[name] for name in step.inputs], pixels)
            if seen is not None:
                seen(step.name, values[step.name])
            for name in self._last_use.get(index, ()):
                if name not in kept:
                    del values[name]
        if self.training and self.spec.activation_scales == "statistics":
            for module in self.modules():
                if isinstance(module, LearnedScale):
                    module.follow()
        return values

    def _step(self, step: Step, inputs: list[Tensor], pixels: Tensor) -> Tensor:
        found = step.attributes
        match step.kind:
            case "pixels":
                return cast(Tensor, self.layer(step.name)((pixels - 128.0) * (1.0 / 64.0)))
            case "max pool":
                top, left, bottom, right = found["padding"]
                x = inputs[0]
                if (top, left) == (bottom, right):
                    return F.max_pool2d(x, found["kernel"], found["stride"], (top, left))
                x = F.pad(x, (left, right, top, bottom), value=-torch.inf)
                return F.max_pool2d(x, found["kernel"], found["stride"])
            case "slice":
                return inputs[0][:, found["start"] : found["stop"]]
            case "reshape":
                return inputs[0].reshape(len(inputs[0]), *found["shape"])
            case "transpose":
                return inputs[0].permute(*found["order"])
            case "upsample":
                return F.interpolate(inputs[0], scale_factor=found["factor"], mode="nearest")
            case "pad":
                top, left, bottom, right = found["amounts"]
                amounts = (left, right, top, bottom, *found["channels"])
                return F.pad(inputs[0], amounts, value=found.get("value", 0.0))
            case "concat":
                return torch.cat(inputs, dim=1)
        return cast(Tensor, self.layer(step.name)(*inputs))


def _key(name: str) -> str:
    """A step's name as a key of a dictionary of modules, whose method names no module may have."""
    key = name.replace(".", "/")
    return f"{key}/" if hasattr(nn.ModuleDict, key) or key == "training" else key


def _last_use(plan: Plan) -> dict[int, tuple[str, ...]]:
    """By the index of a step, the tensors that no later step reads."""
    last: dict[str, int] = {}
    for index, step in enumerate(plan.steps):
        for name in step.inputs:
            last[name] = index
    found: dict[int, list[str]] = {}
    for name, index in last.items():
        found.setdefault(index, []).append(name)
    return {index: tuple(names) for index, names in found.items()}


def _require_exact(plan: Plan) -> None:
    """Refuse steps whose scales are not powers of two."""
    for step in plan.steps:
        kind = "free normalization" if step.attributes.get("weights") == "map" else step.kind
        if kind in ("gate", "table", "free normalization"):
            raise InputError(
                f"network.exact = true: {step.name} is a {kind}, whose scale is not a power of "
                "two; train without exact"
            )
