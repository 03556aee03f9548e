"""From the float graph to a plan: the same function, and codes where the rules want them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploy.core.errors import InputError
from tests.training.quantize.networks import NETWORKS, SIZE, fields, network, plan_module
from training.network_spec import NetworkSpec
from training.quantize import Network, Plan, Refused
from training.quantize.plan import Codes

EXAMPLE = torch.zeros(2, 3, SIZE, SIZE)
EVEN_MEAN, STD = [100.0 / 255.0] * 3, [0.2, 0.25, 0.3]
"""A mean that is a byte, the same for each channel: the border is exactly what the module pads."""


def float_network(
    module: nn.Module,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    example: Tensor = EXAMPLE,
) -> Network:
    found = plan_module(module, example, mean=mean, std=std)
    spec = NetworkSpec(
        name="own", classes=found.plan.classes, input_size=SIZE, bit_widths=(32, 8, 4)
    )
    built = Network(spec, found.plan)
    built.load_float(found.tensors)
    return built.eval()


def difference(built: Network, module: nn.Module, pixels: Tensor, x: Tensor) -> float:
    """The largest of the logits, over the size of the logits."""
    with torch.no_grad():
        ours, theirs = built(pixels), module(x)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def normalized(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    means, deviations = (torch.tensor(list(one)).view(1, -1, 1, 1) for one in (mean, std))
    return (pixels / 255.0 - means) / deviations


def pixels_of(count: int = 6) -> Tensor:
    return torch.from_numpy(fields(count, seed=3)).float()


# ------------------------------------------------------------------ the same function


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_mode_is_the_module(name: str) -> None:
    module, pixels = network(name), pixels_of()
    built = float_network(module)
    assert difference(built, module, pixels, (pixels - 128.0) / 64.0) < 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_mean_and_std_are_in_the_float_mode_to_the_border(name: str) -> None:
    module, pixels = network(name), pixels_of()
    built = float_network(module, EVEN_MEAN, STD)
    # float32: the weights of the first layer have a factor of std in them, rounded once more.
    assert difference(built, module, pixels, normalized(pixels, EVEN_MEAN, STD)) < 3e-6


class Unpadded(nn.Module):
    """Two convolutions of the image, in groups and not, that have no border."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.each = nn.Conv2d(3, 6, 3, groups=3)
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.whole(x))) + self.each(x)
        return self.linear(x.mean((2, 3)))


def test_means_by_channel_are_exact_inside_and_the_border_has_their_nearest_byte() -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    torch.manual_seed(1)
    module, pixels = Unpadded().eval(), pixels_of()
    x = normalized(pixels, mean, std)
    assert difference(float_network(module, mean, std), module, pixels, x) < 3e-6
    padded = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    built = float_network(padded, mean, std)
    names = [step.name for step in built.plan.steps]
    assert names[:3] == ["pixels", "pixels.pad", "0"]
    byte = round(255 * sum(mean) / 3)
    assert built.plan.step("pixels.pad").attributes["value"] == (byte - 128) / 64
    # The module pads with 0, this network with the byte's value; nothing else differs.
    border = normalized(torch.full((1, 3, 1, 1), float(byte)), mean, std)
    with torch.no_grad():
        whole = border.expand(6, 3, SIZE + 2, SIZE + 2).clone()
        whole[:, :, 1:-1, 1:-1] = x
        conv = padded[0]
        assert isinstance(conv, nn.Conv2d)
        expected = F.conv2d(whole, conv.weight, conv.bias).mean((2, 3))
        torch.testing.assert_close(built(pixels), expected, rtol=1e-5, atol=1e-6)


class Entrance(nn.Module):
    """Whatever ``first`` makes of the image, an average and a linear layer."""

    def __init__(self, first: nn.Module, channels: int) -> None:
        super().__init__()
        self.first, self.linear = first, nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.first(x).mean((2, 3)))


class WithImage(nn.Module):
    """The image itself in a sum, or joined."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.joined, self.conv = joined, nn.Conv2d(3, 3, 3, padding=1)
        nn.init.normal_(self.conv.weight, 0.0, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(x)], 1) if self.joined else x + self.conv(x)


class Stored(nn.Module):
    """Stored gains and biases before, in and after a convolution with a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.bias = (nn.Parameter(torch.randn(c, 1, 1)) for c in (3, 6))
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.plain = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x * self.gain)) * self.bias + self.bias
        return F.relu(F.relu(self.plain(x) * self.bias) - self.bias)


class Standardized(nn.Module):
    """The image normalized by stored means and deviations, and taken from a stored tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.std = (nn.Parameter(torch.rand(1, 3, 1, 1) + 0.2) for _ in range(2))
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(self.mean - (x - self.mean) / self.std))


def entrances() -> dict[str, tuple[nn.Module, int]]:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    norm.running_mean, norm.running_var = torch.randn(3), torch.rand(3) + 0.5
    return {
        "normalization": (norm, 3),
        "pool": (nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1)), 4),
        "function": (nn.Sequential(nn.SiLU(), nn.Conv2d(3, 4, 3, padding=1)), 4),
        "pad": (nn.Sequential(nn.ZeroPad2d(2), nn.Conv2d(3, 4, 3)), 4),
        "sum": (WithImage(joined=False), 3),
        "concat": (WithImage(joined=True), 6),
        "stored": (Stored(), 6),
        "standardized": (Standardized(), 6),
        "two borders": (TwoBorders(), 8),
        "nothing": (nn.Identity(), 3),
    }


class TwoBorders(nn.Module):
    """Two convolutions of the image with other borders."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x)], 1)


@pytest.mark.parametrize("normalization", ["grey", "mean and std"])
@pytest.mark.parametrize("case", entrances())
def test_whatever_reads_the_image_reads_it_normalized(case: str, normalization: str) -> None:
    module, pixels = Entrance(*entrances()[case]).eval(), pixels_of()
    mean, std = (EVEN_MEAN, STD) if normalization != "grey" else (None, None)
    built = float_network(module, mean, std)
    x = (pixels - 128.0) / 64.0 if mean is None or std is None else normalized(pixels, mean, std)
    assert difference(built, module, pixels, x) < 5e-6


@pytest.mark.parametrize("case", ["sum", "concat"])
def test_an_image_that_meets_others_has_a_scale_of_its_own(case: str) -> None:
    plan = plan_module(Entrance(*entrances()[case]), EXAMPLE).plan
    assert [step.name for step in plan.steps[:2]] == ["pixels", "pixels.normalized"]
    assert codes(plan, "first.conv").scale == "pixels.normalized"
    assert codes(plan, "pixels").scale == "image"


class Prepared(nn.Module):
    """A convolution of the image, prepared in the module itself."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.norm = nn.BatchNorm2d(3)
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "norm":
            x = self.norm(x)
        elif self.how == "buffers":
            x = (x - self.mean) * 4.0
        elif self.how == "function":
            x = (x - 0.5) * 2.0
        else:
            x = F.pad(x, (1, 1, 1, 1))
        return self.linear(F.relu(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("how", ["norm", "buffers", "function", "pad"])
def test_the_first_convolution_keeps_8_bits_however_its_image_is_prepared(how: str) -> None:
    mean, std = (EVEN_MEAN, STD) if how == "pad" else (None, None)
    plan = plan_module(Prepared(how).eval(), EXAMPLE, mean=mean, std=std).plan
    first = plan.step("conv")
    assert first.attributes["weights"] == "wide"
    for step in plan.steps[: plan.steps.index(first)]:
        assert step.codes is not None
        assert step.codes.wide


def test_a_linear_layer_of_any_map_and_a_network_that_ends_otherwise() -> None:
    torch.manual_seed(0)
    pixels = pixels_of()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5)).eval()
    built = float_network(flat)
    assert [step.kind for step in built.plan.steps] == ["pixels", "linear"]
    assert difference(built, flat, pixels, (pixels - 128.0) / 64.0) < 1e-6
    # A module called "logits" that is not the last operation.
    named = nn.Sequential()
    named.add_module("logits", nn.Conv2d(3, 7, 3))
    named.add_module("pool", nn.AdaptiveAvgPool2d(1))
    named.add_module("flat", nn.Flatten())
    built = float_network(named.eval())
    assert [step.name for step in built.plan.steps] == ["pixels", "logits", "pool", "logits_2"]
    assert difference(built, named, pixels, (pixels - 128.0) / 64.0) < 1e-6


def test_grey_images_of_any_height_and_width() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    built = float_network(module, [0.3], [0.2], torch.zeros(1, 1, 28, 36))
    assert (built.plan.input_shape, built.plan.classes) == ((1, 28, 36), 3)
    with pytest.raises(InputError, match="N×1×28×36"):
        built(torch.zeros(1, 1, 28, 28))


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ([0.5] * 3, None, "mean was given without std"),
        (None, [0.5] * 3, "std was given without mean"),
        ([0.5], [0.5], "expected 3 means and 3 standard deviations"),
        ([0.5] * 3, [0.5, 0.0, 0.5], "above 0"),
    ],
)
def test_a_normalization_that_is_none_is_refused(
    mean: list[float] | None, std: list[float] | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        plan_module(network("dense"), EXAMPLE, mean=mean, std=std)


# ------------------------------------------------------------------ widths, signs, scales


def codes(plan: Plan, name: str) -> Codes:
    found = plan.step(name).codes
    assert found is not None
    return found


def table_of(plan: Plan) -> dict[str, tuple[str, str, str]]:
    """Scale, sign and width by step."""
    return {
        step.name: (
            step.codes.scale,
            "signed" if step.codes.signed else "unsigned",
            "wide" if step.codes.wide else "switched",
        )
        for step in plan.steps
        if step.codes is not None
    }


def test_streams_share_a_scale_at_eight_bits_and_layers_read_them_requantized() -> None:
    table = table_of(plan_module(network("preactivated"), EXAMPLE).plan)
    stream = ("stem", "signed", "wide")
    assert [table[name] for name in ("stem", "conv1", "add", "conv2", "add_2")] == [stream] * 5
    # A free normalization reads the stream at 8 bits; its rectified codes are the hidden ones.
    assert table["norm1"] == ("norm1", "unsigned", "switched")
    assert table["last"] == ("last", "unsigned", "wide")  # an average reads it
    dense = table_of(plan_module(network("dense"), EXAMPLE).plan)
    joined = ("stem", "unsigned", "wide")
    assert [dense[n] for n in ("stem", "grow1", "concat", "grow2", "concat_2")] == [joined] * 5
    assert dense["grow1.enter"] == ("stem", "unsigned", "switched")
    assert dense["average_pool"] == dense["right"] == dense["concat_3"]
    assert dense["average_pool"] == ("average_pool", "signed", "wide")


def test_gates_have_the_constant_scale_and_products_that_of_what_is_gated() -> None:
    plan = plan_module(network("gated"), EXAMPLE).plan
    table = table_of(plan)
    gate = ("gate", "unsigned", "wide")
    assert table["up.sigmoid"] == table["hard_up.hard_sigmoid"] == gate
    stream = ("stem_norm.silu", "signed", "wide")
    assert [table[n] for n in ("conv", "gate", "add", "gate_2")] == [stream] * 4
    assert plan.step("gate").inputs == ("conv", "up.sigmoid")
    assert plan.step("gate_2").inputs == ("add", "hard_up.hard_sigmoid")
    # An average's scale follows from that of what it averages, and is read as it is.
    assert codes(plan, "average_pool").pooled == 36
    assert plan.step("down").inputs == ("average_pool",)


def test_layers_that_are_called_like_a_constant_scale_have_scales_of_their_own() -> None:
    module = nn.Sequential()
    for name in ("image", "gate", "gate_2", "last"):
        module.add_module(name, nn.Conv2d(3, 3, 3))
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    plan = plan_module(module, EXAMPLE).plan
    scales = [codes(plan, name).scale for name in ("pixels", "image", "gate", "gate_2", "last")]
    assert scales == ["image", "image_2", "gate_3", "gate_2", "last"]


def test_codes_that_move_stay_what_they_are() -> None:
    plan = plan_module(network("shuffled"), EXAMPLE).plan
    names = ("grouped.leaky", "reshape", "transpose", "reshape_2")
    moved = [codes(plan, name) for name in names]
    assert moved == [moved[0]] * 4
    assert codes(plan, "max_pool") == codes(plan, "stem")
    assert codes(plan, "stem").wide is False


def test_first_and_last_layer_are_wide_and_patterns_widen_others() -> None:
    def weights(*wide: str) -> dict[str, str]:
        plan = plan_module(network("classical"), EXAMPLE, wide=wide).plan
        return {s.name: s.attributes["weights"] for s in plan.steps if s.kind == "convolution"}

    assert weights() == {
        "features.1": "wide",
        "classifier.1": "switched",
        "classifier.3": "switched",
    }
    assert weights("classifier.*") == dict.fromkeys(weights(), "wide")
    plan = plan_module(network("classical"), EXAMPLE, wide=["classifier.1"]).plan
    assert codes(plan, "classifier.1").wide
    assert not codes(plan_module(network("classical"), EXAMPLE).plan, "classifier.1").wide
    with pytest.raises(
        InputError, match=r"no layer matches 'head\.\*'; the layers are features\.1, cl"
    ):
        plan_module(network("classical"), EXAMPLE, wide=["classifier.1", "head.*"])


class Branches(nn.Module):
    """A tensor that two layers read, a linear bottleneck, and a signed ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(c, 4, 1) for c in (3, 4, 4))
        self.narrow, self.after = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(F.relu(self.one(x)) + F.relu(self.two(x)))
        x = F.relu6(self.after(self.narrow(x)))
        return self.linear(x.mean((2, 3)))


def test_what_two_layers_read_and_what_is_not_rectified_is_wide() -> None:
    plan = plan_module(Branches(), EXAMPLE).plan
    table = table_of(plan)
    assert table["stem"] == ("stem", "unsigned", "wide")
    assert plan.step("one").inputs == plan.step("two").inputs == ("one.enter",)
    assert table["narrow"] == ("narrow", "signed", "wide")
    assert plan.step("after").inputs == ("after.enter",)
    # A rectified sum of rectified summands: all unsigned on one scale.
    assert table["one"] == table["two"] == table["add"] == ("one", "unsigned", "wide")
    assert plan.step("after").attributes["ceiling"] == 6.0


def test_a_gate_that_also_meets_others_is_refused() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            gate = torch.sigmoid(self.a(x))
            return (self.b(x) * gate + gate).mean((2, 3))

    with pytest.raises(Refused, match=r"mul: its gate shares a scale with .*only products"):
        plan_module(Both(), EXAMPLE)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda x: x.flatten(1), "the logits are a flattened map of"),
        (lambda x: torch.cat([x.flatten(1), x.flatten(1)], 1), "reads a flattened map"),
    ],
)
def test_flattened_maps_are_for_linear_layers(end: Callable[[Tensor], Tensor], said: str) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 9)

        def forward(self, x: Tensor) -> Tensor:
            return end(self.conv(x))

    with pytest.raises(Refused, match=said):
        plan_module(Flat(), EXAMPLE)


def test_what_goes_into_a_layer_is_no_step_of_its_own() -> None:
    plan = plan_module(Entrance(Stored(), 6), EXAMPLE).plan
    # The gain before the convolution is a map; those after it are in its normalization or weights;
    # the bias after a ReLU is a map again.
    kinds = [step.kind for step in plan.steps[1:5]]
    assert kinds == ["convolution", "convolution", "requantize", "convolution"]
    maps = [s.name for s in plan.steps if s.attributes.get("weights") == "map"]
    assert len(maps) == 2
    assert not any(plan.step(name).attributes["norm"] for name in maps)
    assert plan.step("first.conv").attributes["norm"]
    assert not plan.step("first.plain").attributes["norm"]
    assert {"first.norm"}.isdisjoint(step.name for step in plan.steps)
