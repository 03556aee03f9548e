"""Layers by name, and bit-widths of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from deploy.core.errors import InputError
from deploy.core.files import sha256_of
from tests.training.planned import convolution, convolutions, last, scale, weights
from tests.training.small_run import small_config
from training.checkpoint import load_network, save_checkpoint
from training.config import load_config
from training.data import ImageSet
from training.loop import RunOptions, train
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network
from training.quantize.mixed import quantizers_of
from training.quantized_layers import weight_quantizer

PIXELS = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(1)).float()


def network(mixed: dict[int, dict[str, int]], name: str = "resnet8") -> Network:
    spec = NetworkSpec(name=name, classes=4, input_size=16, bit_widths=(32, 8, 4), mixed=mixed)
    built = build_network(spec, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for bits in (8, 4):
            built.set_bit_width(bits)
            built(PIXELS)
    return built.for_evaluation()


def test_layers_have_the_names_of_the_exported_files() -> None:
    assert list(convolutions(network({}))) == [
        "stem",
        "block0.first",
        "block0.second",
        "block1.first",
        "block1.second",
        "block1.shortcut",
        "block2.first",
        "block2.second",
        "block2.shortcut",
    ]

    def fresh(name: str) -> Network:
        spec = NetworkSpec(name=name, classes=4, input_size=16, bit_widths=(8,))
        return build_network(spec, torch.Generator().manual_seed(0))

    mobile = quantizers_of(fresh("mobilenetv2"))
    assert {"conv0", "block2.enter", "block2.depthwise", "conv18.enter", "linear"} <= set(mobile)
    # Pools have a place and no layer.
    assert {"conv0", "maxpool0"} & set(convolutions(fresh("vgg11"))) == set()


def test_a_layer_has_its_own_bits_in_its_mode_alone() -> None:
    built = network({4: {"block1": 2, "block1.second": 3, "block0.first": 6, "linear": 5}})
    units = convolutions(built)

    def bits(name: str) -> tuple[int, int]:
        layer = units[name]
        return weight_quantizer(weights(layer)).codes_bits(), scale(layer).codes_bits()

    with built.at(4):
        assert bits("block0.first") == (6, 6)
        assert bits("block1.first") == (2, 2)
        # The second convolution's codes go onto the 8-bit stream.
        assert bits("block1.second") == (3, 8)
        assert bits("block1.shortcut") == (2, 8)
        assert bits("block2.first") == (4, 4)
        enter = built.scale_of("block1.enter")
        assert enter.codes_bits() == 2
        assert enter.value() == built.scale_of("block0").value() * 43
        assert weight_quantizer(last(built).linear).codes_bits() == 5
        assert bits("stem") == (8, 8)
    with built.at(8):
        assert bits("block1.first") == (8, 8)
        assert weight_quantizer(last(built).linear).codes_bits() == 8


def test_the_codes_have_as_many_levels_as_the_layer_has_bits() -> None:
    built = network({4: {"block0.first": 2, "block1.enter": 8}})
    seen: dict[str, int] = {}
    unit = convolutions(built)["block0.first"]
    unit.register_forward_hook(lambda _m, _i, y: seen.update(codes=len(torch.unique(y))))
    with built.at(4), torch.no_grad():
        conv = weights(unit)
        step = weight_quantizer(conv).value().view(-1, 1, 1, 1)
        codes = torch.unique((weight_quantizer(conv)(conv.weight)[0] / step).round())
        found = built.run(PIXELS, keep=["block0", "block1.enter"])
        assert torch.equal(found["block1.enter"], found["block0"])
    assert codes.tolist() == [-1.0, 0.0, 1.0]
    assert seen["codes"] <= 4


@pytest.mark.parametrize(
    ("mixed", "said"),
    [
        ({4: {"block9": 2}}, r"no layer 'block9'; it has block0, .*block2\.shortcut.*linear"),
        ({4: {"block0.third": 2}}, r"no layer 'block0\.third'"),
        ({5: {"block0": 2}}, "5 is not a quantized bit-width of the network, which has 8, 4"),
        ({32: {"block0": 2}}, "32 is not a quantized bit-width"),
        ({4: {"block0": 9}}, "block0 must have 2 to 8 bits, got 9"),
        ({4: {"block0": 32}}, "block0 must have 2 to 8 bits, got 32"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    mixed: dict[int, dict[str, int]], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        network(mixed)


def test_a_config_may_quote_layer_names_or_not(tmp_path: Path) -> None:
    text = """
        name = "x"
        seed = 0
        [data]
        kind = "digits"
        [network]
        name = "resnet8"
        bit_widths = [8, 4]
        [network.mixed.4]
        "block0.first" = 8
        block1.second = 3
        block2 = 2
        [training]
        epochs = 1
    """
    path = tmp_path / "x.toml"
    path.write_text(text)
    config = load_config(path)
    assert config.network.mixed == {4: {"block0.first": 8, "block1.second": 3, "block2": 2}}
    for wrong, said in (
        ("block2 = 2.5", "network\\.mixed\\.4\\.block2 must be a whole number; got 2\\.5"),
        ("block2 = true", "must be a whole number; got True"),
    ):
        path.write_text(text.replace("block2 = 2", wrong))
        with pytest.raises(InputError, match=said):
            load_config(path)
    path.write_text(text.replace("[network.mixed.4]", "[network.mixed.four]"))
    with pytest.raises(InputError, match=r"network\.mixed\.four must be a whole number"):
        load_config(path)


def test_a_checkpoint_keeps_both_settings_and_an_older_one_has_neither(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    for exact in (False, True):
        spec = NetworkSpec(
            name="resnet8", classes=4, input_size=16, bit_widths=(8, 4), exact=exact,
            mixed={4: {"block0.first": 6}},
        )  # fmt: skip
        built = build_network(spec, torch.Generator().manual_seed(0)).for_evaluation()
        save_checkpoint(path, built, {})
        loaded = load_network(path)
        assert loaded.spec == spec
        with built.at(4), loaded.at(4), torch.no_grad():
            assert torch.equal(built(PIXELS), loaded(PIXELS))
    spec = NetworkSpec(name="resnet8", classes=4, input_size=16, bit_widths=(8, 4))
    save_checkpoint(
        path, build_network(spec, torch.Generator().manual_seed(0)).for_evaluation(), {}
    )
    sidecar = json.loads(path.with_suffix(".json").read_text())
    del sidecar["network"]["exact"], sidecar["network"]["mixed"]
    assert sidecar["sha256"] == sha256_of(path)
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    assert load_network(path).spec == spec
    sidecar["network"]["mixed"] = ["block0"]
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    with pytest.raises(InputError, match="spec is damaged"):
        load_network(path)


def test_both_are_trained_from_a_config(
    small_digits: ImageSet, small_holdout: ImageSet, tmp_path: Path
) -> None:
    config = small_config(
        network={
            "name": "resnet8",
            "bit_widths": [8, 4],
            "exact": True,
            "mixed": {"4": {"block0.first": 3}},
        }
    )
    options = RunOptions(progress=False)
    checkpoint = train(config, small_digits, small_holdout, tmp_path, options, dict)
    loaded = load_network(checkpoint)
    assert loaded.spec.exact
    assert loaded.spec.mixed == {4: {"block0.first": 3}}
    start = build_network(loaded.spec, torch.Generator().manual_seed(0))
    trained, fresh = (weights(convolution(one, "stem")).weight for one in (loaded, start))
    assert not torch.equal(trained, fresh)
    with loaded.at(4):
        assert weight_quantizer(weights(convolution(loaded, "block0.first"))).codes_bits() == 3
