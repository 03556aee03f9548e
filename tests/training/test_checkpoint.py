"""Checkpoints: round trip, deterministic bytes, one clear error for each kind of damage."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from deploy.core.errors import InputError
from deploy.core.files import sha256_of
from training.checkpoint import (
    _name_since_version_1,
    load_network,
    read_sidecar,
    save_checkpoint,
    start_from,
)
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network
from training.tensors import persistent_tensors, tensor_bytes


def network(name: str = "resnet8") -> Network:
    spec = NetworkSpec(name=name, classes=4, input_size=16, bit_widths=(32, 4))
    return build_network(spec, torch.Generator().manual_seed(0)).for_evaluation()


def saved(folder: Path) -> Path:
    path = folder / "checkpoint.safetensors"
    save_checkpoint(path, network(), {"classes": ["a", "b", "c", "d"]})
    return path


def rewrite(path: Path, data: bytes) -> None:
    """Replace the weights and make the sidecar agree, as an honest but wrong file would."""
    path.write_bytes(data)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    sidecar["sha256"] = sha256_of(path)
    path.with_suffix(".json").write_text(json.dumps(sidecar))


def test_round_trip_gives_the_same_logits_and_the_same_bytes(tmp_path: Path) -> None:
    path = saved(tmp_path)
    loaded, original = load_network(path), network()
    pixels = torch.randint(0, 256, (2, 3, 16, 16)).float()
    for bits in (32, 4):
        with loaded.at(bits), original.at(bits), torch.no_grad():
            assert torch.equal(loaded(pixels), original(pixels))
    assert not loaded.training
    first = path.read_bytes()
    save_checkpoint(path, loaded, {})
    assert path.read_bytes() == first


def test_a_missing_checkpoint_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="qadtr train"):
        load_network(tmp_path / "checkpoint.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_truncated_weights_are_refused(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(InputError, match="SHA-256"):
        load_network(path)
    rewrite(path, data[:keep])
    with pytest.raises(InputError, match="damaged"):
        load_network(path)


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="SHA-256 differs"):
        load_network(path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    rewrite(path, tensor_bytes(persistent_tensors(network("resnet20")), {}))
    with pytest.raises(InputError, match="belongs to another network"):
        load_network(path)
    tensors = dict(persistent_tensors(network()))
    tensors["layers.linear.bias"] = torch.zeros(7)
    rewrite(path, tensor_bytes(tensors, {}))
    with pytest.raises(InputError, match=r"layers\.linear\.bias has shape \(7,\), expected \(4,\)"):
        load_network(path)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    tensors = {n: t.detach().clone() for n, t in persistent_tensors(network()).items()}
    tensors["layers.stem.conv.weight"][0, 0, 0, 0] = float("nan")
    rewrite(path, save(tensors))
    with pytest.raises(InputError, match=r"layers\.stem\.conv\.weight has values that are NaN"):
        load_network(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not a sidecar"),
        ({"format_version": 99}, "reads versions 1 and 2"),
        ({"network": {"name": "resnet8"}}, "spec is damaged"),
        (
            {
                "format_version": 1,
                "network": {"name": "x", "classes": 4, "input_size": 16, "bit_widths": [4]},
            },
            "known: ",
        ),
        (
            {"network": {"name": "resnet8", "classes": 4, "input_size": 16, "bit_widths": [8]}},
            "another network",
        ),
    ],
)
def test_a_wrong_sidecar_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = saved(tmp_path)
    sidecar = json.loads(path.with_suffix(".json").read_text()) | change
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    with pytest.raises(InputError, match=message):
        load_network(path)


def test_a_sidecar_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(InputError):
        read_sidecar(path)


# ------------------------------------------------------------------ version 1


def in_version_1(name: str) -> str:
    """A tensor's name of now as it was in version 1."""
    for now, then in (
        (r"^layers\.linear\.linear\.", "head.linear."),
        (r"^layers\.linear\.", "head."),
        (r"^layers\.stem\.", "stem."),
        (r"^layers\.block(\d+)/", r"blocks.\1."),
        (r"^layers\.conv(\d+)\.", r"blocks.\1."),
    ):
        name = re.sub(now, then, name)
    return name


def as_version_1(path: Path) -> None:
    """Rewrite a checkpoint of now as version 1 wrote it: no plan, other names."""
    tensors = {in_version_1(name): t for name, t in persistent_tensors(load_network(path)).items()}
    rewrite(path, tensor_bytes(tensors, {"format": "qadtr-checkpoint"}))
    sidecar = json.loads(path.with_suffix(".json").read_text())
    del sidecar["plan"]
    path.with_suffix(".json").write_text(json.dumps(sidecar | {"format_version": 1}))


@pytest.mark.parametrize("name", ["resnet8", "resnet50", "vgg11", "mobilenetv2"])
def test_a_checkpoint_of_version_1_is_the_same_network(tmp_path: Path, name: str) -> None:
    path, original = tmp_path / "checkpoint.safetensors", network(name)
    with torch.no_grad():  # so that no two tensors are alike
        for number, tensor in enumerate(persistent_tensors(original).values()):
            if tensor.is_floating_point():
                tensor.mul_(1.0 + number / 1000.0)
    save_checkpoint(path, original, {})
    as_version_1(path)
    names = load_file(path)
    assert "head.bias" in names and not any(name.startswith("layers.") for name in names)
    loaded = load_network(path)
    theirs = persistent_tensors(original)
    assert all(torch.equal(t, theirs[n]) for n, t in persistent_tensors(loaded).items())
    pixels = torch.randint(0, 256, (2, 3, 16, 16)).float()
    for bits in (32, 4):
        with loaded.at(bits), original.at(bits), torch.no_grad():
            assert torch.equal(loaded(pixels), original(pixels))
    started = network(name)
    start_from(started, path)
    assert torch.equal(
        persistent_tensors(started)["layers.linear.bias"], theirs["layers.linear.bias"]
    )


@pytest.mark.parametrize(
    ("name", "then", "now"),
    [
        ("resnet8", "stem.norm.norms.4.running_mean", "layers.stem.norm.norms.4.running_mean"),
        ("resnet8", "head.linear.weight", "layers.linear.linear.weight"),
        ("resnet8", "blocks.1.shortcut.conv.weight", "layers.block1/shortcut.conv.weight"),
        (
            "resnet8",
            "blocks.0.first.output.scale.scale_4",
            "layers.block0/first.output.scale.scale_4",
        ),
        ("vgg11", "blocks.1.norm.norms.32.weight", "layers.conv1.norm.norms.32.weight"),
        ("mobilenetv2", "blocks.0.unit.conv.weight", "layers.conv0.conv.weight"),
        ("mobilenetv2", "blocks.2.depthwise.conv.weight", "layers.block2/depthwise.conv.weight"),
        ("mobilenetv2", "blocks.18.unit.norm.norms.4.bias", "layers.conv18.norm.norms.4.bias"),
    ],
)
def test_each_kind_of_name_of_version_1_is_known(name: str, then: str, now: str) -> None:
    assert now in persistent_tensors(network(name))
    assert _name_since_version_1(then) == now


def test_streams_of_version_1_are_at_eight_bits_where_they_were() -> None:
    """Scales of version 1 are of 8-bit codes there; read as b-bit ones they would clip."""
    for name, streams in {
        "resnet50": ["stem", "maxpool0", "block1"],
        "mobilenetv2": ["conv1", "block2.project", "block17.project"],
    }.items():
        plan = network(name).plan
        for stream in streams:
            codes = plan.step(stream).codes
            assert codes is not None and codes.wide, stream
    assert network("resnet50").plan.step("block1.first").inputs == ("block1.enter",)
    assert network("mobilenetv2").plan.step("block2.expand").inputs == ("block2.enter",)
    assert network("mobilenetv2").plan.step("conv18").inputs == ("conv18.enter",)


# ------------------------------------------------------------------ plans


def change_plan(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    sidecar = json.loads(path.with_suffix(".json").read_text())
    change(sidecar["plan"])
    path.with_suffix(".json").write_text(json.dumps(sidecar))


def test_a_missing_or_damaged_plan_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    for plan, said in (
        (None, r"checkpoint\.json: plan: expected a list of steps, got None"),
        ([], "expected a list of steps"),
        ([{"name": "pixels"}], "step 0: the key 'kind' is missing"),
        (sidecar["plan"][:-1], "one linear, as the last"),
    ):
        changed = {**sidecar, "plan": plan}
        path.with_suffix(".json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=said):
            load_network(path)
    path.with_suffix(".json").write_text(
        json.dumps({key: value for key, value in sidecar.items() if key != "plan"})
    )
    with pytest.raises(InputError, match="plan: expected a list of steps, got None"):
        load_network(path)


def narrower(plan: list[dict[str, Any]]) -> None:
    """Half the channels inside the first block, where nothing else reads them."""
    steps = {one["name"]: one for one in plan}
    first, second = steps["block0.first"], steps["block0.second"]
    first["attributes"]["channels"][1] = second["attributes"]["channels"][0] = 8
    first["shape"][0] = 8


def without_norm(plan: list[dict[str, Any]]) -> None:
    next(one for one in plan if one["name"] == "block0.first")["attributes"]["norm"] = False


def renamed(plan: list[dict[str, Any]]) -> None:
    for one in plan:
        one["name"] = one["name"].replace("stem", "trunk")
        one["inputs"] = [name.replace("stem", "trunk") for name in one["inputs"]]


def scales_apart(plan: list[dict[str, Any]]) -> None:
    """A scale of its own for what had that of the stream: one scale more than the file has."""
    first = next(one for one in plan if one["name"] == "block2.first")
    first["codes"]["scale"] = "block1.first"


def more_classes(plan: list[dict[str, Any]]) -> None:
    plan[-1]["attributes"]["classes"], plan[-1]["shape"] = 5, [5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (narrower, r"block0/first\S+ has shape \(16,\S*.*expected \(8,"),
        (without_norm, r"lacks 'layers\.block0/first\.norm\.bias'"),
        (renamed, r"lacks 'layers\.trunk\.conv\.weight'"),
        (scales_apart, r"has the unknown 'layers\.block2/first\.output\.scale\."),
        (more_classes, "its network has 4 classes, but its plan has 5"),
    ],
)
def test_a_plan_that_does_not_fit_the_tensors_is_refused(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], object], said: str
) -> None:
    path = saved(tmp_path)
    change_plan(path, change)
    with pytest.raises(InputError, match=said):
        load_network(path)
