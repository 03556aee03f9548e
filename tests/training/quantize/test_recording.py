"""What shapes, types and flags decide is taken as the module runs; values decide nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploy.core.errors import InputError
from training.quantize import Refused, quantize
from training.quantize.trace import trace

EXAMPLE = torch.zeros(2, 4, 8, 8)
Function = Callable[[Any, Tensor], Tensor]


class Controlled(nn.Module):
    """``function`` of itself and of images with 4 channels, and then an average."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1) for _ in range(3)])
        self.relu = nn.ReLU(inplace=True)
        self.register_buffer("on", torch.tensor(True))

    def forward(self, x: Tensor, *more: Tensor, full: bool = False, **rest: Any) -> Tensor:
        x = self.function(self, x)
        return x if full or more or rest else x.mean((2, 3))


def _sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


compiled_sigmoid: Any = torch.jit.script(_sigmoid)


def same_padding(m: Any, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    rows = max((math.ceil(height / 2) - 1) * 2 + 3 - height, 0)
    columns = max((math.ceil(width / 2) - 1) * 2 + 3 - width, 0)
    if rows > 0 or columns > 0:
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return F.conv2d(x, m.conv.weight, m.conv.bias, 2)


def chosen_blocks(m: Any, x: Tensor) -> Tensor:
    for number, block in enumerate(m.blocks):
        if x.shape[1] == 4 and number % 2 == 0:
            x = block(x)
    return x


def one_or_many(m: Any, x: Any) -> Tensor:
    parts = [x] if isinstance(x, Tensor) else x
    return torch.cat([*parts, m.conv(parts[0])], 1)


def until_it_is_small(_: Any, x: Tensor) -> Tensor:
    while x.shape[-1] > 2:
        x = F.max_pool2d(x, 2)
    return x


def first_and_rest(_: Any, x: Tensor) -> Tensor:
    first, *rest = x.split(2, dim=1)
    return torch.cat([*rest, first], 1)


def standardized(m: Any, x: Tensor) -> Tensor:
    w = m.conv.weight
    spread = w.std((1, 2, 3), keepdim=True)
    return F.conv2d(x, (w - w.mean((1, 2, 3), keepdim=True)) / spread)


def asserted(m: Any, x: Tensor) -> Tensor:
    assert x.dim() == 4
    assert len(x) == x.size(0)
    assert x.is_floating_point()
    assert x.dtype == torch.float32
    torch._assert(x.shape[2] == x.shape[3], "square")
    return m.conv(x) if m.on and not m.training else x


def changed_in_place(m: Any, x: Tensor) -> Tensor:
    x = m.conv(x)
    x.add_(1.0)
    m.relu(x)
    return x


def kept(m: Any, x: Tensor) -> Tensor:
    m.last, m.calls = x, getattr(m, "calls", 0) + 1
    return m.conv(x)


def shuffled(_: Any, x: Tensor) -> Tensor:
    groups = x.size(1) // 2
    return x.view(x.size(0), groups, 2, *x.shape[2:]).transpose(1, 2).reshape_as(x)


TAKEN: dict[str, tuple[Function, list[str]]] = {
    "same padding": (same_padding, ["pad", "convolution"]),
    "a loop with conditions": (chosen_blocks, ["convolution", "convolution"]),
    "isinstance of a tensor": (one_or_many, ["convolution", "concat"]),
    "a while loop": (until_it_is_small, ["max pool", "max pool"]),
    "pieces by name": (first_and_rest, ["slice", "slice", "concat"]),
    "computed weights": (standardized, ["convolution"]),
    "assertions and flags": (asserted, ["convolution"]),
    "in place": (changed_in_place, ["convolution", "unary"]),
    "attributes": (kept, ["convolution"]),
    "shapes as arguments": (shuffled, ["reshape", "transpose", "reshape"]),
    "a number first": (lambda m, x: 5.0 - x + 1.0 / (2.0 + x.abs()), ["unary"]),
    "conversions to float32": (
        lambda m, x: m.conv(x.to(torch.float32).to(x.device).type_as(x)),
        ["convolution"],
    ),
    "powers": (lambda m, x: x**2 + (x**2).pow(0.5), ["unary"]),
    "without gradients": (lambda m, x: torch.no_grad()(m.conv)(x.data), ["convolution"]),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_shapes_and_flags_decide_is_taken(case: str) -> None:
    function, expected = TAKEN[case]
    module = Controlled(function).eval()
    was = {name: set(vars(part)) for name, part in module.named_modules()}
    graph = trace(module, EXAMPLE)
    assert [one.kind for one in graph.operations][1:-2] == expected
    assert {name: set(vars(part)) for name, part in module.named_modules()} == was


@pytest.mark.parametrize("function", [same_padding, chosen_blocks, changed_in_place])
def test_the_network_computes_what_the_module_does(function: Function) -> None:
    torch.manual_seed(0)
    module = Controlled(function).eval()
    images = torch.randint(0, 256, (3, 3, 8, 8)).float()
    whole = nn.Sequential(nn.Conv2d(3, 4, 1), module).eval()
    network = quantize(whole, torch.zeros(1, 3, 8, 8), bits=(32, 8)).for_evaluation()
    network.set_bit_width(32)
    with torch.no_grad():
        assert torch.allclose(network(images), whole((images - 128.0) / 64.0), rtol=1e-4, atol=1e-4)


def guessed(_: Any, x: Tensor) -> Tensor:
    try:
        return x * float(x.max())
    except (ValueError, RuntimeError):
        return x * 2.0


def of_a_slice(m: Any, x: Tensor) -> Tensor:
    x = m.conv(x)
    x[:, :2].relu_()
    return x


def of_an_item(m: Any, x: Tensor) -> Tensor:
    x = m.conv(x)
    x[:, :2] = 0.0
    return x


REFUSED: dict[str, tuple[Function, str]] = {
    "branch": (lambda m, x: x if x.sum() > 0 else -x, "bool reads what a tensor holds"),
    "item": (lambda m, x: x * x.mean().item(), "item reads what a tensor holds"),
    "list": (lambda m, x: x * x.flatten().tolist()[0], "tolist reads what a tensor holds"),
    "equal": (lambda m, x: x if torch.equal(x, -x) else m.conv(x), "equal reads what a"),
    "numpy": (lambda m, x: torch.from_numpy(x.numpy()), "numpy reads what a tensor holds"),
    "caught": (guessed, "on other images its recorded calls give other logits"),
    "compiled": (
        lambda m, x: x * compiled_sigmoid(x),
        "on other images its recorded calls give other",
    ),
    "slice in place": (of_a_slice, "conv: the output of Conv2d is changed in place"),
    "item in place": (of_an_item, "conv: the output of Conv2d is changed in place"),
    "another module": (lambda m, x: nn.ReLU()(x), "not installed as a submodule"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_values_decide_is_refused_in_one_line(case: str) -> None:
    function, words = REFUSED[case]
    with pytest.raises(InputError) as caught:
        trace(Controlled(function).eval(), EXAMPLE)
    said = str(caught.value)
    assert words in said
    assert "\n" not in said
    reads_values = "reads what" in said or "other logits" in said
    assert ("must not branch or loop" in said) == reads_values


def test_a_hook_that_changes_something_is_refused_and_others_are_not() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    module[0].register_forward_hook(lambda part, given, found: None)
    nn.utils.weight_norm(module[0])
    assert [one.kind for one in trace(module, EXAMPLE).operations][1:2] == ["convolution"]
    module[0].register_forward_hook(lambda part, given, found: found * 2.0)
    with pytest.raises(Refused, match=r"0: Conv2d: a forward hook changes its input or output"):
        trace(module, EXAMPLE)


def test_what_is_compiled_or_raises_is_one_error() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    forms: list[Any] = [torch.jit.script(module), torch.compile(module)]
    for compiled in forms:
        with pytest.raises(InputError, match="is compiled; give the module that it was compiled"):
            trace(compiled, EXAMPLE)
    with pytest.raises(InputError, match=r"cannot be traced: nine channels.*must take the"):
        trace(Controlled(_of_nine_channels).eval(), EXAMPLE)


def _of_nine_channels(_: Any, x: Tensor) -> Tensor:
    assert x.shape[1] == 9, "nine channels"
    return x


def test_inference_mode_is_no_obstacle() -> None:
    with torch.inference_mode():
        graph = trace(Controlled(chosen_blocks).eval(), torch.zeros(2, 4, 8, 8))
    assert [one.kind for one in graph.operations][1:-2] == ["convolution", "convolution"]


def test_recording_draws_no_random_numbers_of_the_caller() -> None:
    module = Controlled(lambda m, x: F.dropout(m.conv(x))).eval()
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    trace(module, EXAMPLE)
    assert torch.equal(torch.rand(1), wanted)
