"""Checkpoints: round trip, deterministic bytes, one clear error for each kind of damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from deploy.core.errors import InputError
from deploy.core.files import sha256_of
from training.checkpoint import (
    load_network,
    persistent_tensors,
    read_sidecar,
    save_checkpoint,
    tensor_bytes,
)
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network


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
        ({"format": "other"}, "no sidecar"),
        ({"format_version": 99}, "reads versions 1 and 2"),
        ({"network": {"name": "resnet8"}}, "spec is damaged"),
        (
            {
                "format_version": 1,
                "network": {"name": "x", "classes": 4, "input_size": 16, "bit_widths": [4]},
            },
            "known are",
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
