"""A module's calls on an example, as a ``torch.fx`` graph in which every value is known.

The forward pass runs once, on real tensors that record the calls made with them.  Anything that
depends on the shape, rank or type of a tensor, or on a flag of the module, therefore has one value:
Python branches, loops and counts on it as usual.  The values of a tensor must not decide anything.
A call that returns a Python value and cannot do so for a tensor without values (on torch's ``meta``
device) reads values, and is refused.  A module whose recorded calls give different logits than the
module itself on other images is refused too.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import is_tensor_method_or_property
from torch.utils._pytree import tree_any, tree_leaves, tree_map

from deploy.core.errors import InputError

_ANSWERS: tuple[type, ...] = (bool, int, float, str, type(None), torch.Size)
_ANSWERS += (torch.dtype, torch.device, torch.layout, torch.memory_format)

_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

CLOSE = 1e-3
"""Of the largest logit: the same calls on the same images differ by rounding at most."""


class Recorder(fx.Tracer):
    """Records the calls of a module while it runs.

    Attributes:
        values: the output of each node on the example.
    """

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.values: dict[fx.Node, Any] = {}
        self._example = example
        self._versions: dict[fx.Node, int] = {}
        self._modules: dict[str, nn.Module] = {}
        self._running = False

    def record(self, module: nn.Module) -> fx.Graph:
        """The graph of one run; the module is left unchanged.

        Raises:
            TraceError: it branches, loops or counts on the values of a tensor.
            InputError: the forward pass fails on the example; a second input; a change in place
                that the graph does not show.
        """
        self._modules = dict(module.named_modules())
        was = {part: dict(vars(part)) for part in self._modules.values()}
        try:
            with torch.random.fork_rng():
                graph = self.trace(module)
                self._check(module, graph)
            return graph
        finally:
            for part, attributes in was.items():
                vars(part).clear()
                vars(part).update(attributes)

    def _check(self, module: nn.Module, graph: fx.Graph) -> None:
        """Compare the recorded calls with the module on other images."""
        images = torch.rand_like(self._example)
        torch.manual_seed(0)  # dropout that is never off draws the same in both
        wanted = module(images.clone())
        torch.manual_seed(0)
        found = fx.Interpreter(fx.GraphModule(module, graph)).run(images.clone())
        if not isinstance(wanted, Tensor) or not isinstance(found, Tensor):
            return  # no logits: the reader of the graph reports it
        close = CLOSE * float(wanted.abs().nan_to_num(0.0, 0.0).max())
        if wanted.shape != found.shape or not torch.allclose(
            found, wanted, rtol=CLOSE, atol=close, equal_nan=True
        ):
            raise fx.proxy.TraceError(
                "on other images its recorded calls give other logits than the module itself: it "
                "reads the values of tensors, or hides calls in compiled code"
            )

    # ------------------------------------------------------------------ what fx asks of a tracer

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """The forward pass is called with the images only; other arguments have their defaults."""
        del is_module, concrete_args
        _, *others = inspect.signature(self.root.forward).parameters.values()
        for other in others:
            if other.default is other.empty and other.kind not in _ANY_NUMBER:
                raise InputError(
                    f"{type(self.root).__name__} takes a second input, {other.name!r}, but a "
                    "classifier takes one batch of images"
                )
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Any:
        """The recorded result of a call; a result without tensors is a Python value, not a node."""
        del proxy_factory_fn
        node = self.create_node(
            kind, target, self.create_arg(args), self.create_arg(kwargs), name, type_expr
        )
        value = self.values[node]
        if not holds_tensor(value):
            return self._answer(node)
        for one in args:
            if isinstance(one, Recorded) and self.values[one.node] is value:
                one.node = node  # changed in place or passed on: one tensor under all names
                return one
        return self._recorded(node)

    def create_node(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
    ) -> fx.Node:
        """A new node; its output is known from here on."""
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind != "output":
            value = self._example if kind == "placeholder" else self._run(node)
            self.values[node] = value
            if isinstance(value, Tensor):
                self._versions[node] = _version(value)
        return node

    def create_arg(self, a: Any) -> Any:
        """A recorded tensor becomes its node, also inside lists."""
        if not isinstance(a, Recorded):
            return super().create_arg(a)
        if self._versions[a.node] != _version(self.values[a.node]):
            raise InputError(
                f"{path_of(a.node) or type(self.root).__name__}: the output of "
                f"{title_of(a.node, self._modules)} is changed in place through another name, a "
                "slice or a view of it; write the change as a new tensor"
            )
        return a.node

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Parameters are returned unchanged."""
        del attr, parameter_proxy_cache
        return attr_val

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """A module of torch is one node; the calls inside it are not recorded."""
        if self._running or not tree_any(lambda one: isinstance(one, Recorded), (args, kwargs)):
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    # ------------------------------------------------------------------ values

    def _recorded(self, node: fx.Node) -> Any:
        value = self.values[node]
        if isinstance(value, Tensor):
            return Recorded.of(value, node, self)
        whole, kind = fx.Proxy(node, self), type(value)
        pieces = [
            self.create_proxy("call_function", operator.getitem, (whole, number), {})
            for number in range(len(value))
        ]
        return kind(*pieces) if hasattr(kind, "_fields") else kind(pieces)

    def _run(self, node: fx.Node, change: Callable[[Any], Any] = lambda value: value) -> Any:
        arguments, keywords = fx.node.map_arg(
            (tuple(node.args), dict(node.kwargs)), lambda n: change(self.values[n])
        )
        self._running = True
        try:
            return callable_of(node, self._modules)(*arguments, **keywords)
        except Exception as error:
            raise InputError(
                f"{path_of(node) or type(self.root).__name__}: the example does not go through "
                f"{title_of(node, self._modules)}: {' '.join(str(error).split())[:300]}; give an "
                "example of the shape that the network takes"
            ) from error
        finally:
            self._running = False

    def _answer(self, node: fx.Node) -> Any:
        """The Python value of a node, if a tensor without values gives one too."""
        value = self.values[node]
        if not tree_any(lambda one: not isinstance(one, _ANSWERS), value):
            try:
                self._run(node, lambda one: tree_map(_without_values, one))
            except InputError:
                pass
            else:
                return value
        raise fx.proxy.TraceError(
            f"{path_of(node) or type(self.root).__name__}: {title_of(node, self._modules)} reads "
            "what a tensor holds"
        )


class Recorded(Tensor):
    """A tensor of the run, the node that outputs it, and the recorder of the calls made with it."""

    node: fx.Node
    recorder: Recorder

    @staticmethod
    def of(value: Tensor, node: fx.Node, recorder: Recorder) -> Recorded:
        """The same memory, recorded."""
        one = value.as_subclass(Recorded)
        one.node, one.recorder = node, recorder
        return one

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Every function, method and property of a recorded tensor is dispatched here."""
        leaves = tree_leaves((args, kwargs or {}))
        recorder = next(one.recorder for one in leaves if isinstance(one, Recorded))
        if isinstance(func, torch._C.ScriptMethod):
            raise fx.proxy.TraceError(f"{func.name} is compiled code of TorchScript")
        if func.__name__ == "__get__":  # a property, such as x.shape
            name = func.__self__.__name__
            return recorder.create_proxy("call_function", getattr, (args[0], name), {})
        if is_tensor_method_or_property(func):
            return recorder.create_proxy("call_method", func.__name__, args, kwargs or {})
        return recorder.create_proxy("call_function", func, args, kwargs or {})


def _version(tensor: Tensor) -> int:
    """How often its memory was changed; tensors of torch's inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version


def _without_values(one: Any) -> Any:
    return one.to("meta") if isinstance(one, Tensor) else one


# ---------------------------------------------------------------------- what a node is


def callable_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Callable[..., Any]:
    """What a node calls."""
    if node.op == "call_module":
        return modules[str(node.target)]
    if node.op == "call_method":
        name = str(node.target)
        return lambda subject, *a, **k: getattr(subject, name)(*a, **k)
    if node.op == "get_attr":
        *path, last = str(node.target).split(".")
        holder = modules[".".join(path)]
        return lambda: getattr(holder, last)
    assert callable(node.target)
    return node.target


def function_name(node: fx.Node) -> str:
    """The name of a function, method or property, without the underscores of in-place forms."""
    if node.target is getattr:
        return str(node.args[1])
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
    return name.strip("_")


def path_of(node: fx.Node) -> str:
    """The path of the module that is called, or that calls the function; "" for the outermost."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(stack), "")) if stack else ""


def title_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """The class of a module, the name of a function."""
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    return function_name(node)


def holds_tensor(value: Any) -> bool:
    """Whether a value is a tensor, or a tuple or list that contains one."""
    if isinstance(value, tuple | list):
        return any(isinstance(one, Tensor) for one in value)
    return isinstance(value, Tensor)
