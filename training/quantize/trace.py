"""From a float ``nn.Module`` to the graph of its operations.

The module is recorded in one run on the example (:mod:`training.quantize.recording`), so that every
shape is known and values that depend only on shapes (``x.size(0)``, ``channels // groups``) are
numbers.  Pointwise functions of one tensor are kept as expressions until something else reads them,
so that ``x * sigmoid(x)`` and ``relu6(x + 3) / 6 * x`` are one function each, however they are
written.  Operations that cannot be quantized are collected and refused together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from deploy.core.errors import InputError
from training.quantize.graph import FloatGraph, Operation, Refusal, Refused
from training.quantize.operations import function_taker, module_taker
from training.quantize.operations.call import REFUSED, Call, Draft, Traced, Untakeable
from training.quantize.recording import Recorder, function_name, holds_tensor, path_of, title_of

IMAGE = "pixels"

_RAISED: tuple[type[Exception], ...] = (
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    NameError,
)
_RAISED += (AssertionError, LookupError, ArithmeticError)
"""What a forward may raise that is recorded; a TraceError is a ValueError."""


def trace(module: nn.Module, example: Tensor) -> FloatGraph:
    """The graph of a module, which is run once, in evaluation mode, and left unchanged.

    Args:
        module: a classifier of images; a softmax at its end is left out.
        example: an input of the module, float32 N×C×H×W; the values do not matter.

    Raises:
        Refused: operations that cannot be quantized; the message lists all of them.
        InputError: the module cannot be traced, does not take the example, gives no logits
            N×classes, is on another device than the example, or has weights that are not finite.
    """
    _check(module, example)
    was = {part: part.training for part in module.modules()}
    module.train(False)
    recorder = Recorder(example)
    try:
        with torch.no_grad():
            graph = _recorded(module, recorder)
            return _Tracer(module, graph, recorder.values).run()
    finally:
        for part, training in was.items():
            part.training = training


def _recorded(module: nn.Module, recorder: Recorder) -> fx.Graph:
    try:
        return recorder.record(module)
    except _RAISED as error:
        cure = "its forward must take the example, and call only modules that it contains"
        if isinstance(error, fx.proxy.TraceError):
            cure = (
                "its forward must not branch or loop on the values of tensors; quantize the part "
                "that does not, or choose the branch when the network is built"
            )
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{type(module).__name__} cannot be traced: {said}; {cure}") from error


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
                f"{name} is on {tensor.device}, but the example is on {example.device}; move the "
                f"module: module.to({str(example.device)!r})"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} has values that are NaN or infinite; give trained weights")


class _Tracer:
    def __init__(self, module: nn.Module, graph: fx.Graph, values: Mapping[fx.Node, Any]) -> None:
        self.modules = dict(module.named_modules())
        self.module = module
        self.nodes = list(graph.nodes)
        self.draft = Draft(values=values, batch=values[self.nodes[0]].shape[0])
        self.refusals: list[Refusal] = []

    def run(self) -> FloatGraph:
        """All nodes in order."""
        draft = self.draft
        for node in self.nodes:
            if node.op == "placeholder":
                draft.traced[node] = Traced(root=draft.add(IMAGE, "image", (), draft.values[node]))
            elif node.op == "output":
                return self._finish(node.args[0])
            else:
                self._node(node)
        raise InputError(f"{type(self.module).__name__} returns nothing")

    def _finish(self, result: Any) -> FloatGraph:
        logits = self.draft.traced.get(result) if isinstance(result, fx.Node) else None
        value = self.draft.values.get(result) if isinstance(result, fx.Node) else None
        if self.refusals:
            raise Refused(tuple(self.refusals))
        if not isinstance(logits, Traced) or not isinstance(value, Tensor) or value.dim() != 2:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(result).__name__
            raise InputError(
                f"{type(self.module).__name__} must return one tensor of logits, N×classes, but "
                f"it returns {came}"
            )
        last = self.draft.materialized(logits, value)
        return FloatGraph(operations=_reaching(self.draft.operations, last))

    def _node(self, node: fx.Node) -> None:
        value = self.draft.values[node]
        reads = [n for n in node.all_input_nodes if n in self.draft.traced]
        if not reads or not holds_tensor(value):
            return
        try:
            self.draft.traced[node] = self._taken(node, value)
        except Untakeable as why:
            title = title_of(node, self.modules)
            self.refusals.append(
                Refusal(path=path_of(node), operation=title, reason=why.reason, cure=why.cure)
            )
            self.draft.traced[node] = self._opaque(value)

    def _opaque(self, value: Any) -> Any:
        """A placeholder for the output of a refused operation, so that the rest can be checked."""
        if isinstance(value, tuple | list):
            return tuple(self._opaque(one) for one in value)
        if not isinstance(value, Tensor):
            return value
        return Traced(root=self.draft.add(REFUSED, "image", (), value))

    def _taken(self, node: fx.Node, value: Any) -> Any:
        arguments = list(fx.node.map_arg(node.args, self._argument))
        keywords = dict(fx.node.map_arg(node.kwargs, self._argument))
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            self._require_no_hook(module, node, value)
            take = module_taker(module)
            arguments.insert(0, module)
        else:
            take = function_taker(function_name(node))
            if "input" in keywords:  # torch's name of the first argument
                arguments.insert(0, keywords.pop("input"))
        if take is None:
            raise Untakeable(
                "quantization does not know it",
                "replace it with one of the known operations (docs/own-network.md lists them)",
            )
        try:
            return take(Call(self.draft, node, value), *arguments, **keywords)
        except (TypeError, ValueError) as error:
            raise Untakeable(
                f"its arguments are not supported ({error})", "call it in its plain form"
            ) from error

    def _require_no_hook(self, module: nn.Module, node: fx.Node, value: Any) -> None:
        """Refuse a module of torch whose hooks change its output; hooks that prepare its weights
        (``weight_norm``) are accepted."""
        if not (module._forward_hooks or module._forward_pre_hooks):
            return
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.draft.values[n])
        own = module.forward(*args, **kwargs)
        if not isinstance(own, Tensor) or not torch.equal(own, value):
            raise Untakeable("a forward hook changes its input or output", "remove the hook")

    def _argument(self, node: fx.Node) -> Any:
        return self.draft.traced.get(node, self.draft.values[node])


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
