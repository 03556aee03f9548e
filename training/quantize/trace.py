"""From a float ``nn.Module`` to the graph of its operations.

The module is recorded in one run on the example (:mod:`training.quantize.recording`), so that every
shape is known and what depends on shapes alone (``x.size(0)``, ``channels // groups``) is a number.
Pointwise functions of one tensor are kept as expressions until something else reads them,
so that ``x * sigmoid(x)`` and ``relu6(x + 3) / 6 * x`` are one function each, whatever they are
written with.  Whatever cannot be taken is collected, and refused all at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from deploy.core.errors import InputError
from training.quantize.graph import FloatGraph, Kind, Operation, Refusal, Refused, is_gate
from training.quantize.pointwise import Expression, X, in_float32, substitute
from training.quantize.recording import Recorder, function_name, holds_tensor, path_of, title_of

IMAGE = "pixels"
REFUSED = "refused operation"

_NOT_TRACED: tuple[type[Exception], ...] = (
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    NameError,
)
_NOT_TRACED += (AssertionError, LookupError, ArithmeticError)
"""What a forward may raise that is recorded; a TraceError is a ValueError."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A tensor of the trace: a function, mostly none, of an operation's output."""

    root: str
    expression: Expression = X


class Untakeable(Exception):
    """An operation cannot be taken: reason and cure."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(reason)
        self.reason, self.cure = reason, cure


def trace(module: nn.Module, example: Tensor) -> FloatGraph:
    """The graph of a module; it is run once, in evaluation mode, and left as it was.

    Args:
        module: a classifier of images.
        example: float32 N×C×H×W, what the module takes; the values do not matter.

    Raises:
        Refused: operations that cannot be taken, all of them.
        InputError: the module cannot be traced or does not take the example, gives no logits
            N×classes, lies on another device than the example, or has weights that are not finite.
    """
    _check(module, example)
    was = {part: part.training for part in module.modules()}
    module.train(False)
    recorder = Recorder(example)
    try:
        with torch.no_grad():
            graph = recorder.record(module)
            return _Tracer(module, graph, recorder.values).run()
    except _NOT_TRACED as error:
        raise InputError(
            f"{type(module).__name__} cannot be traced: {' '.join(str(error).split())}; its "
            "forward must not branch or loop on the values of tensors: quantize the part that does "
            "not, or choose the branch when the network is built"
        ) from error
    finally:
        for part, training in was.items():
            part.training = training


def _check(module: nn.Module, example: Tensor) -> None:
    if not isinstance(module, nn.Module):
        raise InputError(f"expected a torch nn.Module, got a {type(module).__name__}")
    if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
        raise InputError(
            f"{type(module).__name__} is compiled; give the module that it was compiled from"
        )
    if not isinstance(example, Tensor) or example.dim() != 4 or not example.is_floating_point():
        came = f"{example.dtype} {tuple(example.shape)}" if isinstance(example, Tensor) else example
        raise InputError(f"expected an example image batch, float N×C×H×W, got {came}")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device != example.device:
            raise InputError(
                f"{name} is on {tensor.device}, the example on {example.device}; move the module: "
                f"module.to({str(example.device)!r})"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} has values that are NaN or infinite; give trained weights")


class _Tracer:
    def __init__(self, module: nn.Module, graph: fx.Graph, values: Mapping[fx.Node, Any]) -> None:
        self.modules = dict(module.named_modules())
        self.module = module
        self.nodes = list(graph.nodes)
        self.operations: list[Operation] = []
        self.names: set[str] = set()
        self.unary: dict[tuple[str, str], str] = {}
        self.values = values
        self.batch = values[self.nodes[0]].shape[0]
        self.traced: dict[fx.Node, Any] = {}
        self.refusals: list[Refusal] = []

    def run(self) -> FloatGraph:
        """All nodes in order."""
        for node in self.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "output":
                return self._finish(node.args[0])
            else:
                self._node(node)
        raise InputError(f"{type(self.module).__name__} returns nothing")

    def _placeholder(self, node: fx.Node) -> None:
        self.traced[node] = Traced(root=self._add(IMAGE, "image", (), self.values[node]))

    def _finish(self, result: Any) -> FloatGraph:
        logits = self.traced.get(result) if isinstance(result, fx.Node) else None
        value = self.values.get(result) if isinstance(result, fx.Node) else None
        if self.refusals:
            raise Refused(tuple(self.refusals))
        if not isinstance(logits, Traced) or not isinstance(value, Tensor) or value.dim() != 2:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(result).__name__
            raise InputError(
                f"{type(self.module).__name__} must return one tensor of logits, N×classes; it "
                f"returns {came}"
            )
        last = self._materialized(logits, value)
        return FloatGraph(operations=_reaching(self.operations, last))

    # ------------------------------------------------------------------ one node

    def _node(self, node: fx.Node) -> None:
        value = self.values[node]
        reads = [n for n in node.all_input_nodes if n in self.traced]
        if not reads or not holds_tensor(value):
            return
        try:
            self.traced[node] = self._taken(node, value)
        except Untakeable as why:
            title = title_of(node, self.modules)
            self.refusals.append(
                Refusal(path=path_of(node), operation=title, reason=why.reason, cure=why.cure)
            )
            self.traced[node] = self._opaque(value)

    def _opaque(self, value: Any) -> Any:
        """What stands for the output of something refused, so that the rest can be looked at."""
        if isinstance(value, tuple | list):
            return tuple(self._opaque(one) for one in value)
        if not isinstance(value, Tensor):
            return value
        return Traced(root=self._add(REFUSED, "image", (), value))

    def _taken(self, node: fx.Node, value: Any) -> Any:
        arguments = fx.node.map_arg(node.args, self._argument)
        keywords = fx.node.map_arg(node.kwargs, self._argument)
        call = _Call(self, node, value)
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            self._require_no_hook(module, node, value)
            for kind, take in _MODULES.items():
                if isinstance(module, kind):
                    return take(call, module, *arguments, **keywords)
        else:
            name = function_name(node)
            handler = _FUNCTIONS.get(_SYNONYMS.get(name, name))
            if handler is not None:
                try:
                    return handler(call, *arguments, **keywords)
                except TypeError as error:
                    raise Untakeable(
                        f"arguments that are not known ({error})", "call it in its plain form"
                    ) from error
        raise Untakeable(
            "quantization does not know it",
            "put one of the known operations in its place (docs/own-network.md lists them)",
        )

    def _require_no_hook(self, module: nn.Module, node: fx.Node, value: Any) -> None:
        """Refuse a part of torch whose hooks change what it gives; those that prepare its weights
        (``weight_norm``) do not."""
        if not (module._forward_hooks or module._forward_pre_hooks):
            return
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.values[n])
        own = module.forward(*args, **kwargs)
        if not isinstance(own, Tensor) or not torch.equal(own, value):
            raise Untakeable("a forward hook changes what it reads or gives", "take the hook off")

    def _argument(self, node: fx.Node) -> Any:
        return self.traced.get(node, self.values[node])

    # ------------------------------------------------------------------ operations

    def _add(
        self,
        name: str,
        kind: Kind,
        inputs: Sequence[str],
        value: Tensor,
        attributes: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> str:
        unique, number = name, 1
        while unique in self.names:
            number += 1
            unique = f"{name}_{number}"
        self.names.add(unique)
        self.operations.append(
            Operation(
                name=unique,
                kind=kind,
                inputs=tuple(inputs),
                shape=tuple(value.shape[1:]),
                attributes=dict(attributes or {}),
                tensors={k: t.detach().float().clone() for k, t in (tensors or {}).items()},
            )
        )
        return unique

    def _materialized(self, tensor: Traced, value: Tensor) -> str:
        """The operation whose output the traced tensor is."""
        if tensor.expression == X:
            return tensor.root
        key = (tensor.root, repr(tensor.expression))
        if key not in self.unary:
            name = f"{tensor.root}.{_words(tensor.expression)}"
            self.unary[key] = self._add(
                name, "unary", [tensor.root], value, {"expression": in_float32(tensor.expression)}
            )
        return self.unary[key]


@dataclass(frozen=True)
class _Call:
    """One call that is being taken."""

    tracer: _Tracer
    node: fx.Node
    value: Any

    def tensor(self, x: Any, what: str = "its input") -> str:
        """The name of the operation whose output ``x`` is."""
        if not isinstance(x, Traced):
            raise Untakeable(f"{what} does not depend on the image", "compute it beforehand")
        for node in self.node.all_input_nodes:
            if self.tracer.traced.get(node) is x:
                assert isinstance(x, Traced)
                return self.tracer._materialized(x, self.tracer.values[node])
        # Inside a list argument, or a piece of a tuple: its shape is that of its root.
        root = next(one for one in self.tracer.operations if one.name == x.root)
        return self.tracer._materialized(x, torch.empty(1, *root.shape))

    @staticmethod
    def refused(name: str) -> bool:
        """Whether the operation stands for one that was refused."""
        return name.startswith(REFUSED)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an operation's output, without the batch."""
        return next(one.shape for one in self.tracer.operations if one.name == name)

    def map_shape(self, name: str) -> tuple[int, int, int]:
        """Channels, height and width of an operation's output."""
        shape = self.shape(name)
        if len(shape) != 3:
            raise Untakeable(f"it reads N×{'×'.join(map(str, shape))}", "give it N×C×H×W")
        return shape[0], shape[1], shape[2]

    def add(
        self,
        kind: Kind,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        *,
        value: Tensor | None = None,
    ) -> Traced:
        """A new operation, and the traced tensor that it gives."""
        value = self.value if value is None else value
        own = str(self.node.target) if self.node.op == "call_module" else path_of(self.node)
        if not own or (self.node.op != "call_module" and own in self.tracer.names):
            # The first function that a module calls bears its name, the others their own besides.
            own = ".".join(filter(None, [own, kind.replace(" ", "_")]))
        name = own
        return Traced(root=self.tracer._add(name, kind, inputs, value, attributes, tensors))

    def pointwise(self, expression: Expression, x: Any) -> Traced:
        """``expression`` of a traced tensor."""
        if not isinstance(x, Traced):
            raise Untakeable("it does not depend on the image", "compute it beforehand")
        return Traced(root=x.root, expression=substitute(expression, x.expression))


# ---------------------------------------------------------------------- the operations by kind


def _pair(value: Any) -> list[int]:
    return [int(value), int(value)] if isinstance(value, int) else [int(v) for v in value]


def _convolution(
    call: _Call,
    x: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Traced:
    if not isinstance(weight, Tensor) or weight.dim() != 4:
        raise Untakeable("its weights are computed or not two-dimensional", "use nn.Conv2d")
    dilation = _pair(dilation)
    if padding == "valid":
        padding = 0
    if padding == "same":
        spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pads = [spans[0] // 2, spans[1] // 2, spans[0] - spans[0] // 2, spans[1] - spans[1] // 2]
    else:
        pads = _pair(padding) * 2
    attributes = {
        "stride": _pair(stride),
        "padding": pads,
        "dilation": dilation,
        "groups": int(groups),
    }
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return call.add("convolution", [call.tensor(x)], attributes, tensors)


def _conv_module(call: _Call, module: nn.Conv2d, x: Any) -> Traced:
    if module.padding_mode != "zeros" and any(_pair(module.padding)):
        raise Untakeable(
            f"it pads with {module.padding_mode!r}", "use padding_mode='zeros', or no padding"
        )
    return _convolution(
        call,
        x,
        module.weight,
        module.bias,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
    )


def _linear(call: _Call, x: Any, weight: Tensor, bias: Tensor | None = None) -> Traced:
    source = call.tensor(x)
    if len(call.shape(source)) != 1 or not isinstance(weight, Tensor):
        raise Untakeable(
            f"it is applied to N×{'×'.join(map(str, call.shape(source)))}",
            "linear layers read N×features: flatten first, or use a 1×1 convolution",
        )
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return call.add("linear", [source], {}, tensors)


def _norm(
    call: _Call,
    x: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Traced:
    if running_mean is None or running_var is None or training:
        raise Untakeable(
            "it has no running statistics", "set track_running_stats=True and train or calibrate it"
        )
    tensors = {
        "gain": torch.ones_like(running_mean) if weight is None else weight,
        "bias": torch.zeros_like(running_mean) if bias is None else bias,
        "mean": running_mean,
        "variance": running_var,
    }
    return call.add("norm", [call.tensor(x)], {"epsilon": float(eps)}, tensors)


def _norm_module(call: _Call, module: Any, x: Any) -> Traced:
    return _norm(
        call,
        x,
        module.running_mean,
        module.running_var,
        module.weight,
        module.bias,
        eps=module.eps,
    )


def _binary(name: str) -> Callable[..., Traced]:
    def take(call: _Call, a: Any, b: Any, **keywords: Any) -> Traced:
        if any(value not in (None, 1) for value in keywords.values()):
            raise Untakeable(f"it has {', '.join(keywords)}", "call it with two operands alone")
        constant = [_number(one) for one in (a, b)]
        if constant[1] is not None:
            return call.pointwise([name, X, constant[1]], a)
        if constant[0] is not None:
            return call.pointwise([name, constant[0], X], b)
        if isinstance(a, Traced) and isinstance(b, Traced):
            if a.root == b.root and _same_shape(call):
                expression = [name, a.expression, b.expression]
                return Traced(root=a.root, expression=expression)
            if name == "add":
                return _sum(call, [a, b])
            if name == "mul":
                return _gate(call, a, b)
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            return _channel_affine(call, name, a, b)
        raise Untakeable(
            f"{name} of two tensors that both depend on the image",
            "sums and gates (products with a sigmoid) are known",
        )

    return take


def _same_shape(call: _Call) -> bool:
    shapes = {tuple(call.tracer.values[n].shape) for n in call.node.all_input_nodes}
    return len(shapes) == 1


def _channel_affine(call: _Call, name: str, a: Any, b: Any) -> Traced:
    """A sum or product with a stored tensor of one number a channel: a norm."""
    x, stored = (a, b) if isinstance(a, Traced) else (b, a)
    source = call.tensor(x)
    shape = call.shape(source)
    flat = stored.detach().float().reshape(-1)
    # Broadcasting aligns the last dimensions, so the channels are the third from the end.
    fits = len(shape) == 3 and stored.dim() >= 3 and stored.numel() == stored.shape[-3] == shape[0]
    if name not in ("add", "sub", "mul") or not fits or (name == "sub" and x is b):
        raise Untakeable(
            f"{name} with a stored tensor of shape {tuple(stored.shape)}",
            "a stored tensor may add to or multiply each channel, C×1×1",
        )
    ones, zeros = torch.ones_like(flat), torch.zeros_like(flat)
    tensors = {
        "gain": flat if name == "mul" else ones,
        "bias": zeros if name == "mul" else flat if name == "add" else -flat,
        "mean": zeros,
        "variance": ones,
    }
    return call.add("norm", [source], {"epsilon": 0.0, "fixed": True}, tensors)


def _number(value: Any) -> float | None:
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, Tensor) and value.numel() == 1 and value.dim() <= 1:
        return float(value)
    return None


def _sum(call: _Call, terms: Sequence[Any]) -> Traced:
    names = [call.tensor(term, "a summand") for term in terms]
    shapes = {call.shape(name) for name in names}
    if len(shapes) != 1:
        raise Untakeable(
            f"it broadcasts {' and '.join(str(s) for s in sorted(shapes))}",
            "summands must have one shape",
        )
    return call.add("add", names)


def _gate(call: _Call, a: Traced, b: Traced) -> Traced:
    names = [call.tensor(a, "a factor"), call.tensor(b, "a factor")]
    by_name = {one.name: one for one in call.tracer.operations}
    if not any(call.refused(name) or is_gate(name, by_name) for name in names):
        raise Untakeable(
            "neither factor is known to be in 0…1", "a gate is a sigmoid or hard sigmoid"
        )
    shapes = [call.shape(name) for name in names]
    if len(shapes[0]) != 3 or len(shapes[1]) != 3 or shapes[0][0] != shapes[1][0]:
        raise Untakeable(
            f"it multiplies {shapes[0]} and {shapes[1]}", "a gate has the channels of what it gates"
        )
    return call.add("gate", names)


def _concat(call: _Call, tensors: Sequence[Any], dim: int = 0) -> Traced:
    rank = call.value.dim()
    if dim % rank != 1:
        raise Untakeable(f"it joins dimension {dim}", "only channels (dim=1) can be joined")
    return call.add("concat", [call.tensor(one, "a part") for one in tensors])


def _pieces(call: _Call, x: Any, dim: int) -> tuple[Traced, ...]:
    source = call.tensor(x)
    if dim % (len(call.shape(source)) + 1) != 1:
        raise Untakeable(f"it splits dimension {dim}", "only channels (dim=1) can be split")
    found, start = [], 0
    for piece in call.value:
        stop = start + piece.shape[1]
        found.append(call.add("slice", [source], {"start": start, "stop": stop}, value=piece))
        start = stop
    return tuple(found)


def _getitem(call: _Call, x: Any, index: Any) -> Any:
    if isinstance(x, tuple | list):
        return x[index]
    source = call.tensor(x)
    shape = call.shape(source)
    indices = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in indices:
        place = indices.index(Ellipsis)
        missing = len(shape) + 2 - len(indices)
        indices[place : place + 1] = [slice(None)] * missing
    indices += [slice(None)] * (len(shape) + 1 - len(indices))
    if all(isinstance(one, slice) for one in indices) and indices[0] == slice(None):
        spans = [one.indices(size) for one, size in zip(indices[1:], shape, strict=True)]
        (start, stop, step), *rest = spans
        if step == 1 and all(
            (a, b) == (0, n) for (a, b, _), n in zip(rest, shape[1:], strict=True)
        ):
            if (start, stop) != (0, shape[0]):
                value = torch.empty(1, stop - start, *shape[1:])
                source = call.add(
                    "slice", [source], {"start": start, "stop": stop}, value=value
                ).root
            strides = [step for _, _, step in rest]
            if strides in ([], [1, 1]):
                return Traced(root=source)
            if len(strides) == 2:  # every n-th row and column: the largest of windows of one
                window = {"kernel": [1, 1], "stride": strides, "padding": [0, 0, 0, 0]}
                return call.add("max pool", [source], window)
    raise Untakeable(
        f"it takes {index!r}", "channels can be sliced, x[:, a:b], and rows and columns strided"
    )


def _reshape(call: _Call, x: Any, *_shape: Any, **_keywords: Any) -> Traced:
    if call.value.shape[0] != call.tracer.batch:
        raise Untakeable("it changes the batch", "keep N first")
    source = call.tensor(x)
    shape = [int(n) for n in call.value.shape[1:]]
    if list(call.shape(source)) == shape:
        return Traced(root=source)
    return call.add("reshape", [source], {"shape": shape})


def _transpose(call: _Call, x: Any, first: int, second: int) -> Traced:
    order = list(range(call.value.dim()))
    order[first], order[second] = order[second], order[first]
    return _permute(call, x, order)


def _permute(call: _Call, x: Any, *order: Any) -> Traced:
    wanted = [int(d) % call.value.dim() for d in (order[0] if len(order) == 1 else order)]
    if wanted[0] != 0:
        raise Untakeable("it moves the batch", "keep N first")
    return call.add("transpose", [call.tensor(x)], {"order": wanted})


def _max_pool(
    call: _Call,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Traced:
    if _pair(dilation) != [1, 1] or return_indices:
        raise Untakeable("it is dilated or returns indices", "use a plain window")
    source = call.tensor(x)
    attributes = _window(call, source, kernel_size, stride, padding, ceil_mode)
    return call.add("max pool", [source], attributes)


def _window(
    call: _Call, source: str, kernel: Any, stride: Any, padding: Any, ceil_mode: bool
) -> dict[str, list[int]]:
    call.map_shape(source)
    sides = _pair(kernel)
    steps = sides if stride is None or stride == [] else _pair(stride)
    pads = _pair(padding) * 2
    if ceil_mode:  # the same windows, with what hangs over written as padding
        _, height, width = call.map_shape(source)
        for axis, size in enumerate((height, width)):
            windows = call.value.shape[2 + axis]
            reach = (windows - 1) * steps[axis] + sides[axis]
            pads[2 + axis] = max(pads[2 + axis], reach - size - pads[axis])
    return {"kernel": sides, "stride": steps, "padding": pads}


def _average_pool(
    call: _Call,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Traced:
    source = call.tensor(x)
    attributes = _window(call, source, kernel_size, stride, padding, ceil_mode)
    padded = any(attributes["padding"])
    if divisor_override is not None or (padded and (ceil_mode or not count_include_pad)):
        raise Untakeable(
            "its windows at the border have other divisors than those inside",
            "use count_include_pad=True, ceil_mode=False and no divisor_override",
        )
    return call.add("average pool", [source], attributes)


def _global_average(call: _Call, source: str) -> Traced:
    _, height, width = call.map_shape(source)
    attributes = {"kernel": [height, width], "stride": [1, 1], "padding": [0, 0, 0, 0]}
    value = torch.empty(1, call.shape(source)[0], 1, 1)
    return call.add("average pool", [source], attributes, value=value)


def _adaptive_average_pool(call: _Call, x: Any, output_size: Any) -> Traced:
    source = call.tensor(x)
    _, height, width = call.map_shape(source)
    wanted = [
        s if n is None else int(n)
        for n, s in zip(
            output_size if isinstance(output_size, tuple | list) else [output_size] * 2,
            (height, width),
            strict=True,
        )
    ]
    if wanted == [1, 1]:
        return _global_average(call, source)
    if height % wanted[0] or width % wanted[1]:
        raise Untakeable(
            f"it averages {height}×{width} to {wanted[0]}×{wanted[1]} in windows of unequal size",
            "use an output size that divides the input's",
        )
    sides = [height // wanted[0], width // wanted[1]]
    if sides == [1, 1]:
        return Traced(root=source)
    return call.add(
        "average pool", [source], {"kernel": sides, "stride": sides, "padding": [0, 0, 0, 0]}
    )


def _adaptive_max_pool(call: _Call, x: Any, output_size: Any) -> Traced:
    source = call.tensor(x)
    _, height, width = call.map_shape(source)
    if _pair(output_size) != [1, 1]:
        raise Untakeable("its output is not 1×1", "use nn.MaxPool2d")
    attributes = {"kernel": [height, width], "stride": [1, 1], "padding": [0, 0, 0, 0]}
    return call.add("max pool", [source], attributes)


def _mean(call: _Call, x: Any, dim: Any = None, keepdim: bool = False, **_more: Any) -> Traced:
    source = call.tensor(x)
    axes = dim if isinstance(dim, tuple | list) else [dim]
    if len(call.shape(source)) != 3 or {None if d is None else d % 4 for d in axes} != {2, 3}:
        raise Untakeable(f"it averages dimensions {dim}", "average height and width, dim=(2, 3)")
    pooled = _global_average(call, source)
    if keepdim:
        return pooled
    return call.add("reshape", [pooled.root], {"shape": [call.shape(source)[0]]})


def _interpolate(
    call: _Call,
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    **_more: Any,
) -> Traced:
    source = call.tensor(x)
    call.map_shape(source)
    factors = [call.value.shape[2 + axis] / call.shape(source)[1 + axis] for axis in (0, 1)]
    if mode != "nearest" or any(f != int(f) or f < 1 for f in factors):
        raise Untakeable(
            f"it resizes by {factors} with mode {mode!r}", "use nearest and whole factors"
        )
    if factors == [1.0, 1.0]:
        return Traced(root=source)
    return call.add("upsample", [source], {"factor": [int(f) for f in factors]})


def _pad(
    call: _Call, x: Any, pad: Sequence[int], mode: str = "constant", value: Any = None
) -> Traced:
    amounts = [int(n) for n in pad] + [0] * (6 - len(pad))
    if mode != "constant" or (value or 0) != 0 or min(amounts) < 0 or len(pad) > 6:
        raise Untakeable(f"it pads {list(pad)} with mode {mode!r}", "pad with zeros, mode constant")
    left, right, top, bottom, front, back = amounts
    source = call.tensor(x)
    call.map_shape(source)
    return call.add(
        "pad", [source], {"amounts": [top, left, bottom, right], "channels": [front, back]}
    )


def _as_it_is(call: _Call, x: Any, *_rest: Any, **_more: Any) -> Any:
    return x


def _converted(call: _Call, x: Any, *_rest: Any, **_more: Any) -> Any:
    if call.value.dtype != torch.float32:
        raise Untakeable(f"it converts to {call.value.dtype}", "leave everything in float32")
    return x


def _power(call: _Call, x: Any, exponent: Any) -> Traced:
    known = {2.0: "square", 0.5: "sqrt"}.get(_number(exponent) or 0.0)
    if known is None:
        raise Untakeable(f"its exponent is {exponent}", "2 and 0.5 are known")
    return call.pointwise([known, X], x)


def _flatten(call: _Call, x: Any, start_dim: int = 0, end_dim: int = -1) -> Traced:
    return _reshape(call, x)


def _prelu(call: _Call, x: Any, weight: Tensor) -> Traced:
    if weight.numel() != 1:
        raise Untakeable(
            f"it has a slope for each of {weight.numel()} channels, a table has one for all",
            "use nn.PReLU() with one slope, or LeakyReLU",
        )
    return call.pointwise(["leaky", X, float(weight)], x)


def _clamp(call: _Call, x: Any, min: Any = None, max: Any = None, **more: Any) -> Traced:
    bounds = [None if b is None else _number(b) for b in (min, max)]
    if any(b is None and given is not None for b, given in zip(bounds, (min, max), strict=True)):
        raise Untakeable("its bounds are tensors", "clamp to numbers")
    return call.pointwise(["clamp", X, *bounds], x)


def _unary(expression: Expression) -> Callable[..., Traced]:
    return lambda call, x, *_rest, **_more: call.pointwise(expression, x)


_RELU: Expression = ["clamp", X, 0.0, None]
_RELU6: Expression = ["clamp", X, 0.0, 6.0]
_HARD_SIGMOID: Expression = ["div", ["clamp", ["add", X, 3.0], 0.0, 6.0], 6.0]
_GELU: Expression = [
    "mul",
    ["mul", 0.5, X],
    ["add", 1.0, ["erf", ["div", X, math.sqrt(2.0)]]],
]
_GELU_TANH: Expression = [
    "mul",
    ["mul", 0.5, X],
    [
        "add",
        1.0,
        [
            "tanh",
            [
                "mul",
                math.sqrt(2.0 / math.pi),
                ["add", X, ["mul", 0.044715, ["mul", X, ["square", X]]]],
            ],
        ],
    ],
]
_SIGMOID: Expression = ["sigmoid", X]
_SILU: Expression = ["mul", X, ["sigmoid", X]]
_MISH: Expression = ["mul", X, ["tanh", ["softplus", X]]]
_HARD_SWISH: Expression = ["mul", X, _HARD_SIGMOID]


def _softplus(call: _Call, x: Any, beta: float = 1.0, threshold: float = 20.0) -> Traced:
    if threshold < 20.0:
        raise Untakeable(f"its threshold is {threshold}", "leave it at 20")
    if beta == 1.0:
        return call.pointwise(["softplus", X], x)
    return call.pointwise(["div", ["softplus", ["mul", X, float(beta)]], float(beta)], x)


def _gelu(call: _Call, x: Any, approximate: str = "none") -> Traced:
    return call.pointwise(_GELU if approximate == "none" else _GELU_TANH, x)


_MODULES: Mapping[type[nn.Module], Callable[..., Any]] = MappingProxyType(
    {
        nn.Conv2d: _conv_module,
        nn.Linear: lambda call, m, x: _linear(call, x, m.weight, m.bias),
        nn.BatchNorm2d: _norm_module,
        nn.ReLU: lambda call, m, x: call.pointwise(_RELU, x),
        nn.ReLU6: lambda call, m, x: call.pointwise(_RELU6, x),
        nn.Hardtanh: lambda call, m, x: call.pointwise(["clamp", X, m.min_val, m.max_val], x),
        nn.LeakyReLU: lambda call, m, x: call.pointwise(["leaky", X, m.negative_slope], x),
        nn.PReLU: lambda call, m, x: _prelu(call, x, m.weight),
        nn.ELU: lambda call, m, x: call.pointwise(["elu", X, m.alpha], x),
        nn.Sigmoid: lambda call, m, x: call.pointwise(_SIGMOID, x),
        nn.Hardsigmoid: lambda call, m, x: call.pointwise(_HARD_SIGMOID, x),
        nn.Hardswish: lambda call, m, x: call.pointwise(_HARD_SWISH, x),
        nn.SiLU: lambda call, m, x: call.pointwise(_SILU, x),
        nn.Mish: lambda call, m, x: call.pointwise(_MISH, x),
        nn.GELU: lambda call, m, x: _gelu(call, x, m.approximate),
        nn.Tanh: lambda call, m, x: call.pointwise(["tanh", X], x),
        nn.Softplus: lambda call, m, x: _softplus(call, x, m.beta, m.threshold),
        nn.Identity: lambda call, m, x: x,
        nn.Dropout: lambda call, m, x: x,
        nn.Dropout2d: lambda call, m, x: x,
        nn.AlphaDropout: lambda call, m, x: x,
        nn.MaxPool2d: lambda call, m, x: _max_pool(
            call, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
        ),
        nn.AvgPool2d: lambda call, m, x: _average_pool(
            call,
            x,
            m.kernel_size,
            m.stride,
            m.padding,
            m.ceil_mode,
            m.count_include_pad,
            m.divisor_override,
        ),
        nn.AdaptiveAvgPool2d: lambda call, m, x: _adaptive_average_pool(call, x, m.output_size),
        nn.AdaptiveMaxPool2d: lambda call, m, x: _adaptive_max_pool(call, x, m.output_size),
        nn.Upsample: lambda call, m, x: _interpolate(call, x, m.size, m.scale_factor, m.mode),
        nn.ZeroPad2d: lambda call, m, x: _pad(call, x, m.padding),
        nn.Flatten: lambda call, m, x: _reshape(call, x),
        nn.ChannelShuffle: lambda call, m, x: _channel_shuffle(call, x, m.groups),
    }
)


def _channel_shuffle(call: _Call, x: Any, groups: int) -> Traced:
    source = call.tensor(x)
    channels, height, width = call.map_shape(source)
    split = [groups, channels // groups, height, width]
    first = call.add("reshape", [source], {"shape": split}, value=torch.empty(1, *split))
    swapped = [split[1], split[0], height, width]
    second = call.add(
        "transpose", [first.root], {"order": [0, 2, 1, 3, 4]}, value=torch.empty(1, *swapped)
    )
    return call.add("reshape", [second.root], {"shape": [channels, height, width]})


_FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "conv2d": _convolution,
        "linear": _linear,
        "batch_norm": _norm,
        "add": _binary("add"),
        "sub": _binary("sub"),
        "mul": _binary("mul"),
        "div": _binary("div"),
        "rsub": lambda call, a, b: _binary("sub")(call, b, a),
        "rdiv": lambda call, a, b: _binary("div")(call, b, a),
        "neg": _unary(["neg", X]),
        "relu": _unary(_RELU),
        "relu6": _unary(_RELU6),
        "hardtanh": lambda call, x, min_val=-1.0, max_val=1.0, inplace=False: call.pointwise(
            ["clamp", X, float(min_val), float(max_val)], x
        ),
        "clamp": _clamp,
        "leaky_relu": lambda call, x, negative_slope=0.01, inplace=False: call.pointwise(
            ["leaky", X, float(negative_slope)], x
        ),
        "elu": lambda call, x, alpha=1.0, inplace=False: call.pointwise(["elu", X, alpha], x),
        "prelu": _prelu,
        "sigmoid": _unary(_SIGMOID),
        "hardsigmoid": _unary(_HARD_SIGMOID),
        "hardswish": _unary(_HARD_SWISH),
        "silu": _unary(_SILU),
        "mish": _unary(_MISH),
        "gelu": _gelu,
        "tanh": _unary(["tanh", X]),
        "softplus": _softplus,
        "exp": _unary(["exp", X]),
        "abs": _unary(["abs", X]),
        "sqrt": _unary(["sqrt", X]),
        "square": _unary(["square", X]),
        "cat": _concat,
        "chunk": lambda call, x, chunks, dim=0: _pieces(call, x, dim),
        "split": lambda call, x, split_size_or_sections, dim=0: _pieces(call, x, dim),
        "getitem": _getitem,
        "view": _reshape,
        "reshape": _reshape,
        "flatten": _flatten,
        "squeeze": _reshape,
        "unsqueeze": _reshape,
        "transpose": _transpose,
        "permute": _permute,
        "contiguous": _as_it_is,
        "clone": _as_it_is,
        "data": _as_it_is,
        "detach": _as_it_is,
        "float": _as_it_is,
        "requires_grad": _as_it_is,
        "to": _converted,
        "type_as": _converted,
        "pow": _power,
        "dropout": _as_it_is,
        "max_pool2d": _max_pool,
        "avg_pool2d": _average_pool,
        "adaptive_avg_pool2d": _adaptive_average_pool,
        "mean": _mean,
        "interpolate": _interpolate,
        "pad": _pad,
        "channel_shuffle": _channel_shuffle,
    }
)
"""Functions and methods by their name, without underscores of in-place forms."""

_SYNONYMS = {
    "radd": "add",
    "rmul": "mul",
    "rtruediv": "rdiv",
    "truediv": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "view_as": "view",
    "reshape_as": "reshape",
    "concat": "cat",
    "concatenate": "cat",
    "clip": "clamp",
    "iadd": "add",
    "imul": "mul",
    "isub": "sub",
    "itruediv": "div",
    "boolean_dispatch": "max_pool2d",
    "max_pool2d_with_indices": "max_pool2d",
    "swapaxes": "transpose",
}


def _words(expression: Expression) -> str:
    """A short name of a function: that of its outermost part which says most."""
    known = {
        repr(_RELU): "relu",
        repr(_RELU6): "relu6",
        repr(_SILU): "silu",
        repr(_HARD_SWISH): "hard_swish",
        repr(_HARD_SIGMOID): "hard_sigmoid",
        repr(_SIGMOID): "sigmoid",
        repr(_GELU): "gelu",
        repr(_GELU_TANH): "gelu",
        repr(_MISH): "mish",
    }
    found = known.get(repr(expression))
    if found is None:
        found = str(expression[0]) if isinstance(expression, list) else "function"
    return found


def _reaching(operations: Sequence[Operation], last: str) -> tuple[Operation, ...]:
    """The operations that the last one needs, in order; the last one is last."""
    needed, kept = {last}, []
    for one in reversed(operations):
        if one.name in needed:
            needed.update(one.inputs)
            kept.append(one)
    kept.reverse()
    if not any(one.kind == "image" for one in kept):
        raise InputError("the logits do not depend on the image")
    if kept[-1].name != last:
        raise InputError(f"{last} is not the last operation of the network")
    return tuple(kept)
