"""From a module to the graph of its operations: what is taken, how it is named, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploy.core.errors import InputError
from tests.training.quantize.networks import NETWORKS, SIZE, network
from training.quantize.graph import FloatGraph, Refused
from training.quantize.pointwise import evaluate_torch
from training.quantize.trace import trace

EXAMPLE = torch.zeros(2, 4, 8, 8)
Function = Callable[..., Tensor]


class Around(nn.Module):
    """``function`` of the module and of images with 4 channels, and then an average."""

    def __init__(self, function: Function, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x).mean((2, 3))


def graph_of(function: Function, **parts: nn.Module | nn.Parameter) -> FloatGraph:
    return trace(Around(function, **parts).eval(), EXAMPLE)


def kinds(graph: FloatGraph) -> list[str]:
    """Without the image."""
    return [one.kind for one in graph.operations[1:]]


def expression_of(function: Function, **parts: nn.Module | nn.Parameter) -> Any:
    (found,) = [one for one in graph_of(function, **parts).operations if one.kind == "unary"]
    return found.attributes["expression"]


# ------------------------------------------------------------------ names, shapes, attributes


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_has_the_shapes_and_names_of_the_module(name: str) -> None:
    module = network(name)
    graph = trace(module, torch.zeros(3, 3, SIZE, SIZE))
    names = [one.name for one in graph.operations]
    assert len(set(names)) == len(names)
    known: set[str] = set()
    for one in graph.operations:
        assert known.issuperset(one.inputs)
        known.add(one.name)
    paths = {
        path for path, part in module.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)
    }
    assert paths <= known
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        module.get_submodule(path).register_forward_hook(
            lambda _m, _i, y, path=path: shapes.update({path: tuple(y.shape[1:])})
        )
    with torch.no_grad():
        module(torch.zeros(1, 3, SIZE, SIZE))
    by_name = {one.name: one for one in graph.operations}
    assert {path: by_name[path].shape for path in paths} == shapes


def test_a_module_that_is_called_twice_has_two_operations() -> None:
    graph = graph_of(lambda m, x: m.conv(m.conv(x)), conv=nn.Conv2d(4, 4, 1))
    assert [one.name for one in graph.operations][:3] == ["pixels", "conv", "conv_2"]


def test_the_attributes_of_a_convolution() -> None:
    conv = nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 4), dilation=(1, 2), groups=2)
    one = graph_of(lambda m, x: m.conv(x), conv=conv).operations[1]
    assert one.attributes == {
        "stride": [2, 1],
        "padding": [1, 4, 1, 4],
        "dilation": [1, 2],
        "groups": 2,
    }
    assert one.shape == (6, 4, 8)
    assert torch.equal(one.tensors["weight"], conv.weight)
    even = graph_of(
        lambda m, x: F.conv2d(x, m.w, padding="same"), w=nn.Parameter(torch.ones(6, 4, 2, 2))
    )
    assert even.operations[1].attributes["padding"] == [0, 0, 1, 1]
    none = graph_of(
        lambda m, x: F.conv2d(x, m.w, padding="valid"), w=nn.Parameter(torch.ones(6, 4, 2, 2))
    )
    assert none.operations[1].attributes["padding"] == [0] * 4
    for kernel, padding in ((3, "valid"), (1, "same"), (3, 0)):  # no border, however it is padded
        free = nn.Conv2d(4, 6, kernel, padding=padding, padding_mode="reflect")
        one = graph_of(lambda m, x: m.conv(x), conv=free).operations[1]
        assert one.attributes["padding"] == [0] * 4
    weight = nn.Parameter(torch.ones(6, 4, 1, 1))
    twice = graph_of(lambda m, x: F.conv2d(x, m.w, None, (2,)), w=weight)
    assert twice.operations[1].attributes["stride"] == [2, 2]


TAKEN: dict[str, tuple[Function, list[str], dict[str, Any]]] = {
    "batch_norm": (
        lambda m, x: F.batch_norm(x, m.n.running_mean, m.n.running_var, m.n.weight, m.n.bias),
        ["norm"],
        {},
    ),
    "norm without gain": (lambda m, x: m.plain(x), ["norm"], {}),
    "gain per channel": (lambda m, x: x * m.g, ["norm"], {}),
    "bias per channel": (lambda m, x: m.g + x, ["norm"], {}),
    "minus a bias": (lambda m, x: x - m.g, ["norm"], {}),
    "a bias minus it": (lambda m, x: m.g - x, ["norm"], {}),
    "quotient per channel": (lambda m, x: x / m.g, ["norm"], {}),
    "quotient per feature": (
        lambda m, x: (x.mean((2, 3)) / torch.full((1, 4), 3.0)).view(2, 4, 1, 1),
        ["average pool", "reshape", "norm", "reshape"],
        {},
    ),
    "one number for all channels": (
        lambda m, x: 2.0 / ((x - torch.full((1, 1, 1, 1), 0.5)) / torch.full((1, 1, 1), 3.0)),
        ["unary"],
        {"expression": ["div", 2.0, ["div", ["sub", "x", 0.5], 3.0]]},
    ),
    "sum": (lambda m, x: m.a(x) + m.b(x), ["convolution", "convolution", "add"], {}),
    "in-place sum": (lambda m, x: m.a(x).add_(m.b(x)), ["convolution", "convolution", "add"], {}),
    "gate": (
        lambda m, x: torch.sigmoid(m.a(x)) * m.b(x),
        ["convolution", "convolution", "unary", "gate"],
        {},
    ),
    "clamped gate": (
        lambda m, x: torch.mul(m.b(x), m.a(x).clamp(0.0, 1.0)),
        ["convolution", "convolution", "unary", "gate"],
        {},
    ),
    "concat": (lambda m, x: torch.concat((m.a(x), x), dim=-3), ["convolution", "concat"], {}),
    "chunk": (lambda m, x: x.chunk(2, 1)[1], ["slice"], {"start": 2, "stop": 4}),
    "split": (lambda m, x: x.split([1, 3], dim=1)[1], ["slice"], {"start": 1, "stop": 4}),
    "slice": (lambda m, x: x[:, 1:3], ["slice"], {"start": 1, "stop": 3}),
    "slice from the end": (lambda m, x: x[:, -1:, :], ["slice"], {"start": 3, "stop": 4}),
    "strides": (
        lambda m, x: x[:, :, ::2, ::3],
        ["max pool"],
        {"kernel": [1, 1], "stride": [2, 3], "padding": [0, 0, 0, 0]},
    ),
    "ellipsis": (
        lambda m, x: x[..., ::2, ::2],
        ["max pool"],
        {"kernel": [1, 1], "stride": [2, 2], "padding": [0, 0, 0, 0]},
    ),
    "everything": (lambda m, x: x[:, :], [], {}),
    "max_pool2d": (
        lambda m, x: F.max_pool2d(x, 3, 2, 1),
        ["max pool"],
        {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1, 1, 1]},
    ),
    "ceil mode": (
        lambda m, x: F.max_pool2d(x, 3, 2, ceil_mode=True),
        ["max pool"],
        {"kernel": [3, 3], "stride": [2, 2], "padding": [0, 0, 1, 1]},
    ),
    "adaptive max": (
        lambda m, x: m.adaptive(x),
        ["max pool"],
        {"kernel": [8, 8], "stride": [1, 1], "padding": [0, 0, 0, 0]},
    ),
    "adaptive max function": (
        lambda m, x: F.adaptive_max_pool2d(x, 1),
        ["max pool"],
        {"kernel": [8, 8], "stride": [1, 1], "padding": [0, 0, 0, 0]},
    ),
    "largest of the map": (
        lambda m, x: x.amax((-1, -2)).unflatten(1, (4, 1, 1)),
        ["max pool", "reshape", "reshape"],
        {"shape": [4, 1, 1]},
    ),
    "avg_pool2d": (
        lambda m, x: F.avg_pool2d(x, (3, 2), padding=1),
        ["average pool"],
        {"kernel": [3, 2], "stride": [3, 2], "padding": [1, 1, 1, 1]},
    ),
    "adaptive average": (
        lambda m, x: F.adaptive_avg_pool2d(x, (2, None)),
        ["average pool"],
        {"kernel": [4, 1], "stride": [4, 1], "padding": [0, 0, 0, 0]},
    ),
    "adaptive average of its size": (lambda m, x: F.adaptive_avg_pool2d(x, 8), [], {}),
    "interpolate": (
        lambda m, x: F.interpolate(x, scale_factor=2),
        ["upsample"],
        {"factor": [2, 2]},
    ),
    "interpolate to a size": (
        lambda m, x: F.interpolate(x, (8, 16)),
        ["upsample"],
        {"factor": [1, 2]},
    ),
    "interpolate exactly": (
        lambda m, x: F.interpolate(x, scale_factor=3, mode="nearest-exact"),
        ["upsample"],
        {"factor": [3, 3]},
    ),
    "upsample by 1": (lambda m, x: m.once(x), [], {}),
    "pad": (
        lambda m, x: F.pad(x, (1, 2, 3, 4, 1, 0)),
        ["pad"],
        {"amounts": [3, 1, 4, 2], "channels": [1, 0]},
    ),
    "pad module": (
        lambda m, x: m.border(x),
        ["pad"],
        {"amounts": [3, 1, 4, 2], "channels": [0, 0]},
    ),
    "constant_pad_nd": (
        lambda m, x: torch.constant_pad_nd(x, (1, 2, 3, 4), 0.0),
        ["pad"],
        {"amounts": [3, 1, 4, 2], "channels": [0, 0]},
    ),
    "hstack": (lambda m, x: torch.hstack([m.a(x), x]), ["convolution", "concat"], {}),
    "narrow": (lambda m, x: x.narrow(1, 1, 2), ["slice"], {"start": 1, "stop": 3}),
    "narrow from the end": (lambda m, x: x.narrow(-3, -2, 2), ["slice"], {"start": 2, "stop": 4}),
    "tensor_split": (lambda m, x: x.tensor_split(2, 1)[1], ["slice"], {"start": 2, "stop": 4}),
    "split_with_sizes": (
        lambda m, x: torch.split_with_sizes(x, [1, 3], 1)[1],
        ["slice"],
        {"start": 1, "stop": 4},
    ),
    "movedim": (lambda m, x: x.movedim(2, 3), ["transpose"], {"order": [0, 1, 3, 2]}),
    "movedim of two": (
        lambda m, x: x.moveaxis((1, 2), (2, 1)),
        ["transpose"],
        {"order": [0, 2, 1, 3]},
    ),
    "dims by name": (lambda m, x: x.permute(dims=(0, 1, 3, 2)), ["transpose"], {}),
    "swapdims": (lambda m, x: x.swapdims(dim0=2, dim1=3), ["transpose"], {}),
    "permute": (lambda m, x: x.permute(0, 1, 3, 2), ["transpose"], {"order": [0, 1, 3, 2]}),
    "swapaxes": (lambda m, x: x.swapaxes(-1, -2), ["transpose"], {"order": [0, 1, 3, 2]}),
    "shuffle": (
        lambda m, x: m.shuffle(x),
        ["reshape", "transpose", "reshape"],
        {"shape": [4, 8, 8]},
    ),
    "shuffle function": (
        lambda m, x: F.channel_shuffle(x, 2),
        ["reshape", "transpose", "reshape"],
        {"shape": [4, 8, 8]},
    ),
    "size arithmetic": (
        lambda m, x: x.view(x.size(0), x.shape[1] // 2, -1, x.size(3)),
        ["reshape"],
        {"shape": [2, 16, 8]},
    ),
    "flatten and back": (
        lambda m, x: x.mean((2, 3), keepdim=True).squeeze(3).unsqueeze(-1),
        ["average pool", "reshape", "reshape"],
        {"shape": [4, 1, 1]},
    ),
    "unflattened": (lambda m, x: m.blocks(x).flatten(1, 2), ["reshape", "reshape"], {}),
    "input by name": (lambda m, x: F.max_pool2d(input=x, kernel_size=2), ["max pool"], {}),
    "nothing": (
        lambda m, x: F.dropout(m.identity(m.drop(x)).contiguous().clone().detach().float()),
        [],
        {},
    ),
    "dropped": (
        lambda m, x: torch.feature_dropout(
            F.dropout2d(F.dropout3d(F.alpha_dropout(F.feature_alpha_dropout(x)))), 0.5, False
        ),
        [],
        {},
    ),
    "dropped modules": (lambda m, x: m.all_drops(+x.type(torch.float32)), [], {}),
    "dropped rows": (
        lambda m, x: m.rows(F.dropout1d(x.flatten(2))).view(2, 4, 8, 8), ["reshape", "reshape"], {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_each_operation_is_taken(case: str) -> None:
    function, expected, attributes = TAKEN[case]
    norm, plain = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)
    graph = graph_of(
        function,
        a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1), n=norm, plain=plain, drop=nn.Dropout2d(),
        identity=nn.Identity(), shuffle=nn.ChannelShuffle(2), adaptive=nn.AdaptiveMaxPool2d(1),
        once=nn.Upsample(scale_factor=1), g=nn.Parameter(torch.rand(4, 1, 1)),
        border=nn.ConstantPad2d((1, 2, 3, 4), 0.0), blocks=nn.Unflatten(1, (2, 2)),
        all_drops=nn.Sequential(nn.Dropout3d(), nn.FeatureAlphaDropout()), rows=nn.Dropout1d(),
    )  # fmt: skip
    body = graph.operations[1:-2]
    assert [one.kind for one in body] == expected
    assert attributes.items() <= dict(body[-1].attributes if body else {}).items()


POINTWISE: dict[str, tuple[nn.Module | None, Function]] = {
    "relu": (nn.ReLU(), F.relu),
    "relu6": (nn.ReLU6(inplace=True), F.relu6),
    "hardtanh": (nn.Hardtanh(-0.5, 2.0), lambda x: F.hardtanh(x, -0.5, 2.0)),
    "leaky": (nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2)),
    "prelu": (nn.PReLU(init=0.3), lambda x: F.prelu(x, torch.tensor([0.3]))),
    "elu": (nn.ELU(0.5), lambda x: F.elu(x, 0.5)),
    "celu": (nn.CELU(0.5), lambda x: F.celu(x, 0.5)),
    "selu": (nn.SELU(), F.selu),
    "in-place selu": (nn.SELU(inplace=True), lambda x: torch.selu_(x * 1.0)),
    "sigmoid": (nn.Sigmoid(), torch.sigmoid),
    "expit": (None, torch.special.expit),
    "hardsigmoid": (nn.Hardsigmoid(), F.hardsigmoid),
    "hardswish": (nn.Hardswish(), lambda x: x * F.relu6(x + 3.0) / 6.0),
    "silu": (nn.SiLU(), lambda x: x * torch.sigmoid(x)),
    "mish": (nn.Mish(), lambda x: x * torch.tanh(F.softplus(x))),
    "gelu": (nn.GELU(), F.gelu),
    "gelu by hand": (nn.GELU(), lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))),
    "gelu by tanh": (nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "tanh": (nn.Tanh(), lambda x: x.tanh()),
    "softplus": (nn.Softplus(), F.softplus),
    "steep softplus": (nn.Softplus(beta=3.0), lambda x: F.softplus(x, 3.0)),
    "function hardswish": (None, F.hardswish),
    "function silu": (None, F.silu),
    "function mish": (None, F.mish),
    "exp": (None, torch.exp),
    "abs": (None, torch.abs),
    "sqrt": (None, lambda x: torch.sqrt(x.clamp(min=0.01))),
    "square": (None, torch.square),
    "arithmetic": (None, lambda x: (1.0 - x) / 2.0 * 3.0 + 0.25),
    "in place": (None, lambda x: (x * 1.0).mul_(2.0).add_(1.0).sub_(0.5).div_(3.0).neg_()),
    "clip": (None, lambda x: x.clip(-1.0, torch.tensor(0.5))),
    "lower bound": (nn.ReLU(), lambda x: x.clamp_min(0)),
    "clamp_max": (None, lambda x: torch.clamp_max(x, 0.5)),
    "reciprocal": (None, lambda x: torch.reciprocal(x.abs() + 1.0)),
    "rsqrt": (None, lambda x: (x.abs() + 1.0).rsqrt()),
    "longer names": (None, lambda x: torch.true_divide(x.absolute(), 3.0).negative()),
    "upper bound": (None, lambda x: torch.clamp(x, max=0.5)),
    "own product": (None, lambda x: x * x),
    "own difference": (None, lambda x: x.exp() - x),
}


@pytest.mark.parametrize("case", POINTWISE)
def test_a_pointwise_function_is_one_expression_that_is_the_function(case: str) -> None:
    module, function = POINTWISE[case]
    x = torch.linspace(-7.0, 7.0, 301)
    expected = function(x.clone())
    written = [lambda m, t: function(m.conv(t))]
    if module is not None:
        written.append(lambda m, t: m.act(m.conv(t)))
        torch.testing.assert_close(module(x.clone()), expected)
    conv = nn.Conv2d(4, 4, 1)
    for one in written:
        expression = expression_of(one, conv=conv, act=module or nn.Identity())
        torch.testing.assert_close(evaluate_torch(expression, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x * torch.sigmoid(x), "conv.silu"),
        (lambda x: x * (F.relu6(x + 3.0) / 6.0), "conv.hard_swish"),
        (F.gelu, "conv.gelu"),
        (F.leaky_relu, "conv.leaky"),
    ],
)
def test_a_function_bears_the_name_of_what_it_reads(function: Function, name: str) -> None:
    graph = graph_of(lambda m, x: function(m.conv(x)), conv=nn.Conv2d(4, 4, 1))
    assert [one.name for one in graph.operations if one.kind == "unary"] == [name]


def test_a_function_that_two_read_is_there_once() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        x = m.conv(x)
        return m.a(F.silu(x)) + m.b(x * torch.sigmoid(x))

    parts = {name: nn.Conv2d(4, 4, 1) for name in ("conv", "a", "b")}
    assert kinds(graph_of(function, **parts)).count("unary") == 1


def test_the_module_is_left_as_it_was() -> None:
    module = network("gated").train()
    module.get_submodule("conv_norm").eval()
    flags = {name: part.training for name, part in module.named_modules()}
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trace(module, torch.zeros(2, 3, SIZE, SIZE))
    assert {name: part.training for name, part in module.named_modules()} == flags
    assert all(torch.equal(tensor, before[n]) for n, tensor in module.state_dict().items())
    assert all(not part._forward_hooks for part in module.modules())
    with pytest.raises(InputError):
        trace(module, torch.zeros(2, 5, SIZE, SIZE))
    assert {name: part.training for name, part in module.named_modules()} == flags


def test_a_head_of_modules_and_a_linear_function() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.AlphaDropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.weight, self.bias = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.body(x), self.weight, self.bias)

    head = Head().eval()
    graph = trace(head, EXAMPLE)
    assert kinds(graph) == ["average pool", "reshape", "linear"]
    assert [one.shape for one in graph.operations[1:]] == [(4, 1, 1), (4,), (3,)]
    assert torch.equal(graph.operations[-1].tensors["bias"], head.bias)


def test_what_the_logits_do_not_need_is_left_out() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        m.other(x)
        return m.conv(x)

    graph = graph_of(function, conv=nn.Conv2d(4, 4, 1), other=nn.Conv2d(4, 9, 1))
    assert "other" not in [one.name for one in graph.operations]


@pytest.mark.parametrize("end", [nn.Softmax(dim=1), nn.LogSoftmax(dim=-1)])
def test_a_softmax_at_the_end_is_left_out(end: nn.Module) -> None:
    body = [nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    graph = trace(nn.Sequential(*body, end).eval(), EXAMPLE)
    assert [one.name for one in graph.operations] == [
        one.name for one in trace(nn.Sequential(*body).eval(), EXAMPLE).operations
    ]


# ------------------------------------------------------------------ refusals


class Attention(nn.Module):
    """The attention block of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.norm(x.flatten(2).transpose(1, 2))
        y, _ = self.heads(y, y, y, need_weights=False)
        return y.transpose(1, 2).reshape(n, c, h, w)


class Everything(nn.Module):
    """One of each operation that no integers are known for."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.slopes = nn.PReLU(4)
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.wide = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        x = self.slopes(self.a(x))
        x = self.a(x) * self.b(x)
        x = self.a(x) + self.wide(x)
        x = x.softmax(dim=1)
        return F.softmax(x.mean((2, 3)), dim=1)


def test_everything_that_cannot_be_taken_is_refused_at_once() -> None:
    with pytest.raises(Refused) as caught:
        trace(Everything().eval(), EXAMPLE)
    refusals = caught.value.refusals
    assert [(one.path, one.operation) for one in refusals] == [
        ("attention.norm", "LayerNorm"),
        ("attention.heads", "MultiheadAttention"),
        ("slopes", "PReLU"),
        ("", "mul"),
        ("", "add"),
        ("", "softmax"),
    ]
    assert "a slope for each of 4 channels" in refusals[2].reason
    assert "LeakyReLU" in refusals[2].cure
    assert "0…1" in refusals[3].reason and "sigmoid" in refusals[3].cure
    assert "broadcasts (1, 8, 8) and (4, 8, 8)" in refusals[4].reason
    lines = str(caught.value).splitlines()
    assert lines[0] == "the network has 6 operations that cannot be quantized:"
    assert lines[1].startswith(
        "  attention.norm: LayerNorm: it normalizes by statistics of each image, for which"
    )
    assert lines[4].startswith("  (network): mul: neither factor")


REFUSED: dict[str, tuple[Function, str, str]] = {
    "reflection": (lambda m, x: m.reflect(x), "reflect: Conv2d", "padding_mode='zeros'"),
    "same and replicated": (lambda m, x: m.replicate(x), "'replicate'", "padding_mode='zeros'"),
    "another order": (
        lambda m, x: torch.batch_norm(
            x, None, None, torch.zeros(4), torch.ones(4), False, 0.1, 1e-5, False
        ),
        "batch_norm: its arguments are not supported",
        "plain form",
    ),
    "computed weights": (lambda m, x: F.conv2d(x, m.a(x)), "conv2d", "use nn.Conv2d"),
    "linear on a map": (lambda m, x: m.linear(x), "applied to N×4×8×8", "flatten first"),
    "no statistics": (lambda m, x: m.instant(x), "no running statistics", "track_running_stats"),
    "alpha": (lambda m, x: torch.add(x, m.a(x), alpha=2), "it has alpha", "only two operands"),
    "rounded": (lambda m, x: torch.div(x, 2.0, rounding_mode="floor"), "rounding_mode", "two op"),
    "quotient": (lambda m, x: m.a(x) / m.b(x), "div of two tensors", "sums and gates"),
    "difference": (lambda m, x: m.a(x) - m.b(x), "sub of two tensors", "sums and gates"),
    "bias per column": (lambda m, x: x + m.columns, "a stored tensor of shape (8,)", "C×1×1"),
    "gain of the last axis": (lambda m, x: x[:, :, :, ::2] * m.four, "of shape (4,)", "C×1×1"),
    "divisor of the image": (lambda m, x: m.g / x, "div with a stored", "C×1×1"),
    "divided by 0": (lambda m, x: x / (m.g - 1.0), "divides a channel by 0", "not 0"),
    "spatial gate": (
        lambda m, x: m.a(x) * torch.sigmoid(m.one(x)),
        "multiplies (4, 8, 8) and (1, 8, 8)",
        "channels",
    ),
    "joined rows": (lambda m, x: torch.cat([x, x], dim=2), "joins dimension 2", "dim=1"),
    "joined batch": (lambda m, x: torch.cat([x, x]), "joins dimension 0", "dim=1"),
    "split rows": (lambda m, x: x.chunk(2, dim=2)[0], "splits dimension 2", "dim=1"),
    "one channel": (lambda m, x: x[:, 0].unsqueeze(1), "it takes", "x[:, a:b]"),
    "cropped": (lambda m, x: x[:, :, 1:], "it takes", "x[:, a:b]"),
    "first image": (lambda m, x: x[:1], "it takes", "x[:, a:b]"),
    "batch in channels": (lambda m, x: x.reshape(1, -1, 8, 8), "changes the batch", "keep N first"),
    "moved batch": (lambda m, x: x.permute(1, 0, 2, 3), "moves the batch", "keep N first"),
    "dilated pool": (lambda m, x: F.max_pool2d(x, 2, dilation=2), "dilated", "plain window"),
    "indices": (lambda m, x: m.indices(x)[0], "returns indices", "plain window"),
    "border divisors": (
        lambda m, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        "other divisors",
        "count_include_pad",
    ),
    "hanging over": (
        lambda m, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), "other divisors", "ceil_mode=False",
    ),
    "unequal windows": (lambda m, x: F.adaptive_avg_pool2d(x, 3), "unequal size", "divides"),
    "adaptive max": (lambda m, x: F.adaptive_max_pool2d(x, 2), "adaptive_max_pool2d", ""),
    "adaptive max module": (lambda m, x: m.adaptive(x), "not 1×1", "MaxPool2d"),
    "mean over channels": (lambda m, x: x.mean(1, keepdim=True), "averages dimensions 1", "(2, 3)"),
    "bilinear": (
        lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), "'bilinear'", "nearest",
    ),
    "shrinking": (lambda m, x: F.interpolate(x, scale_factor=0.5), "resizes", "whole factors"),
    "reflected pad": (lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "'reflect'", "zeros"),
    "crop by pad": (lambda m, x: F.pad(x, (-1, 0, 0, 0)), "pads [-1, 0, 0, 0]", "zeros"),
    "pad with halves": (
        lambda m, x: F.pad(x, (1, 1, 1, 1), value=0.5), "pads [1, 1, 1, 1] with 0.5;", "zeros",
    ),
    "pad module with halves": (lambda m, x: m.halves(x), "pads [1, 1, 1, 1] with 0.5;", "zeros"),
    "pad module of copies": (lambda m, x: m.copies(x), "with mode 'replicate'", "zeros"),
    "adaptive indices": (
        lambda m, x: F.adaptive_max_pool2d(x, 1, return_indices=True)[0], "indices", "MaxPool2d",
    ),
    "largest of channels": (lambda m, x: x.amax(1, keepdim=True), "maximizes", "(2, 3)"),
    "negative alpha": (lambda m, x: F.celu(x, -1.0), "alpha is -1.0", "above 0"),
    "bounds by channel": (
        lambda m, x: torch.clamp(x, m.g - 1.0, m.g),
        "bounds are tensors",
        "numbers",
    ),
    "soon linear": (lambda m, x: F.softplus(x, 1.0, 2.0), "threshold", "20"),
    "pool of rows": (
        lambda m, x: F.max_pool2d(x.flatten(2), 2).view(2, 2, 4, -1),
        "reads N×4×64",
        "N×C×H×W",
    ),
    "rows of features": (
        lambda m, x: m.rows(x.flatten(2)).view(2, 4, 8, 8), "reads N×4×64", "N×features",
    ),
    "groups": (lambda m, x: F.group_norm(x, 2), "statistics of each image", "BatchNorm2d"),
    "groups module": (lambda m, x: m.groups(x), "groups: GroupNorm: it normal", "BatchNorm2d"),
    "each image": (lambda m, x: m.image(x), "image: InstanceNorm2d: it normal", "BatchNorm2d"),
    "transposed": (lambda m, x: m.up(x), "up: ConvTranspose2d", "nn.Upsample"),
    "attention": (lambda m, x: x @ m.a(x), "all depend on the image", "sigmoid gate"),
    "stored matrix": (lambda m, x: x @ torch.ones(8, 8), "by a stored matrix", "nn.Linear"),
    "softmax inside": (lambda m, x: m.a(F.log_softmax(x, 1)), "the end of the network", "leave it"),
    "softmax of rows": (lambda m, x: x.mean((2, 3)).softmax(0)[:, :, None, None], "end", "leave"),
    "unknown": (lambda m, x: torch.cumsum(x, 1), "cumsum", "own-network.md"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_why_and_what_to_do(case: str) -> None:
    function, reason, cure = REFUSED[case]
    with pytest.raises(Refused) as caught:
        graph_of(
            function,
            a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1), one=nn.Conv2d(4, 1, 1),
            linear=nn.Linear(8, 8), instant=nn.BatchNorm2d(4, track_running_stats=False),
            reflect=nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            replicate=nn.Conv2d(4, 4, 3, padding="same", padding_mode="replicate"),
            columns=nn.Parameter(torch.ones(8)), four=nn.Parameter(torch.ones(4)),
            g=nn.Parameter(torch.ones(4, 1, 1)), indices=nn.MaxPool2d(2, return_indices=True),
            adaptive=nn.AdaptiveMaxPool2d(2), halves=nn.ConstantPad2d(1, 0.5),
            copies=nn.ReplicationPad2d(1), rows=nn.BatchNorm1d(4), groups=nn.GroupNorm(2, 4),
            image=nn.InstanceNorm2d(4), up=nn.ConvTranspose2d(4, 4, 2),
        )  # fmt: skip
    first = caught.value.refusals[0]
    assert reason in str(first)
    assert cure in first.cure


def test_an_argument_that_nobody_reads_is_refused_with_the_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def take(*_: Any) -> Any:
        return int("same")

    monkeypatch.setitem(trace.__globals__, "module_taker", lambda module: take)
    with pytest.raises(
        Refused, match=r"conv: Conv2d: its arguments are not supported \(invalid lit"
    ):
        graph_of(lambda m, x: m.conv(x), conv=nn.Conv2d(4, 4, 1))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class Two(nn.Module):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return (x + other).mean((2, 3))


class Optional(nn.Module):
    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return (x * scale).mean((2, 3))


def test_data_dependent_control_flow_is_refused() -> None:
    with pytest.raises(InputError, match=r"Branching cannot be traced: .*must not branch or loop"):
        trace(Branching(), EXAMPLE)


def test_a_second_input_is_refused_and_one_with_a_default_is_not() -> None:
    with pytest.raises(InputError, match=r"Two takes a second input, 'other'"):
        trace(Two(), EXAMPLE)
    assert kinds(trace(Optional(), EXAMPLE)) == ["unary", "average pool", "reshape"]


def test_a_module_on_another_device_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten()).to(torch.device("meta"))
    with pytest.raises(
        InputError, match=r"0\.weight is on meta, but the example is on cpu; .*'cpu'"
    ):
        trace(module, EXAMPLE)


def test_weights_and_statistics_that_are_no_numbers_are_refused() -> None:
    module = network("gated")
    with torch.no_grad():
        module.get_parameter("conv.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"conv\.weight has values that are NaN"):
        trace(module, torch.zeros(1, 3, SIZE, SIZE))
    module = network("gated")
    module.get_buffer("conv_norm.running_var")[1] = float("inf")
    with pytest.raises(InputError, match=r"conv_norm\.running_var has values"):
        trace(module, torch.zeros(1, 3, SIZE, SIZE))


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (torch.zeros(3, SIZE, SIZE), r"float N×C×H×W, got torch\.float32 \(3, 11, 11\)"),
        (torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8), r"got torch\.uint8"),
        ("image", "got image"),
        (torch.zeros(1, 4, SIZE, SIZE), r"features\.1: the example does not go through Conv2d"),
        (
            torch.zeros(1, 3, SIZE + 4, SIZE),
            r"classifier\.1: the example does not go through Linear",
        ),
    ],
)
def test_an_example_of_the_wrong_shape_is_refused(example: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        trace(network("classical"), example)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda m, x: x.mean((2, 3), keepdim=True), None),
        (lambda m, x: (x.mean((2, 3)), x), r"returns tuple"),
        (lambda m, x: x.flatten(2), r"it returns \(2, 4, 64\)"),
        (lambda m, x: None, r"returns NoneType"),
        (lambda m, x: m.logits, r"depend|logits"),
    ],
)
def test_logits_of_the_wrong_shape_are_refused(function: Function, said: str | None) -> None:
    class Plain(Around):
        def forward(self, x: Tensor) -> Tensor:
            return self.function(self, x)

    said = said or r"must return one tensor of logits, N×classes, but it returns \(2, 4, 1, 1\)"
    with pytest.raises(InputError, match=said):
        trace(Plain(function, logits=nn.Parameter(torch.ones(2, 3))), EXAMPLE)
