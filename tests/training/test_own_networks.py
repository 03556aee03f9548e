"""Networks by ``package.module:callable``, their weights, and images from npz files."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import nn

from deploy.core.errors import InputError
from training.checkpoint import load_network, save_checkpoint
from training.data import ImageSet, load_images
from training.network_spec import NetworkSpec
from training.networks import float_network
from training.prediction import logits
from training.quantize import quantize
from training.quantize.build import build_network
from training.quantize.calibration import calibrate
from training.tensors import read_tensors

SOURCE = """
from torch import nn

def build(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))

class Fixed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 22 * 34, 3))

nothing = 3

def other(classes):
    return "a network"
"""
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "someones_network.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("someones_network", None)


def spec(name: str, **more: object) -> NetworkSpec:
    values: dict[str, object] = {"classes": 3, "input_size": (24, 36), "bit_widths": (32, 8, 4)}
    return NetworkSpec(name=name, **{**values, **more})  # type: ignore[arg-type]


def pictures(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, 4, 6), np.uint8)
    return coarse.repeat(6, axis=2).repeat(6, axis=3)


def test_a_network_of_ones_own_has_the_weights_of_the_seed(here: Path) -> None:
    def drawn(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return next(iter(build_network(spec("someones_network:build"), generator).parameters()))

    first = drawn(1)
    torch.rand(3)
    assert torch.equal(drawn(1), first)
    assert not torch.equal(drawn(2), first)


def test_the_projects_networks_take_rgb_alone(here: Path) -> None:
    with pytest.raises(InputError, match="resnet8 takes images of 3 channels, but these have 1"):
        build_network(spec("resnet8"), torch.Generator().manual_seed(0), channels=1)


@pytest.mark.parametrize("size", [(64, 16), (32, 24), (16, 64)])
@pytest.mark.parametrize("name", ["vgg11", "vgg16-imagenet"])
def test_a_vgg_takes_images_of_any_shape(name: str, size: tuple[int, int]) -> None:
    module = float_network(name, classes=3, image_size=size).eval()
    with torch.no_grad():
        assert module(torch.zeros(1, 3, *size)).shape == (1, 3)


def test_a_callable_gives_the_network_with_as_many_logits_as_classes(here: Path) -> None:
    network = build_network(spec("someones_network:build"), torch.Generator())
    assert network.plan.classes == 3
    assert network.plan.input_shape == (3, 24, 36)
    fixed = build_network(spec("someones_network:Fixed"), torch.Generator())
    assert [step.name for step in fixed.plan.steps][-1] == "3"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet9", "unknown network 'resnet9'; known: .*resnet8.*package.module:name"),
        ("not_there:build", "no network 'not_there:build'.*No module named"),
        ("someones_network:absent", "no network .*absent"),
        ("someones_network:nothing", "is a int, expected a callable"),
        ("someones_network:other", "returned a str, expected a torch nn.Module"),
    ],
)
def test_a_name_that_names_no_network_is_one_error(here: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        float_network(name, classes=3, image_size=(24, 36))


def test_another_number_of_classes_is_refused(here: Path) -> None:
    with pytest.raises(InputError, match="gives 3 logits, but the images have 5 classes"):
        build_network(spec("someones_network:Fixed", classes=5), torch.Generator())


def test_weights_of_the_module_are_taken_and_others_refused(here: Path) -> None:
    module = float_network("someones_network:build", classes=3, image_size=(24, 36))
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    save_file(state, here / "weights.safetensors")
    network = build_network(
        spec("someones_network:build", mean=MEAN, std=STD),
        torch.Generator(),
        weights=here / "weights.safetensors",
    ).for_evaluation()
    images = pictures(4)
    scaled = torch.from_numpy(images).float() / 255.0
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        expected = module.eval()((scaled - mean) / std).numpy()
    # The border is padded with a byte for all channels, where the module has each channel's mean.
    np.testing.assert_allclose(logits(network, images, 32), expected, atol=0.05)

    for change, said in (
        (
            {"0.weight": state["0.weight"][:, :2].contiguous()},
            r"0\.weight has shape \(\d+, 2, 3, 3\), expected \(\d+, 3, 3, 3\)",
        ),
        ({"0.weight": torch.full_like(state["0.weight"], torch.nan)}, r"0\.weight has .* NaN"),
        ({"more": torch.zeros(1)}, "has the unknown 'more'"),
    ):
        save_file({**state, **change}, here / "wrong.safetensors")
        with pytest.raises(InputError, match=said):
            build_network(
                spec("someones_network:build"),
                torch.Generator(),
                weights=here / "wrong.safetensors",
            )
    (here / "torn.safetensors").write_bytes(b"no safetensors")
    # The first two bytes of a header of 640 bytes are those of a pickle.
    (here / "cut.safetensors").write_bytes((640).to_bytes(8, "little") + b'{"a":')
    for file, said in (
        ("torn", "damaged"),
        ("cut", "damaged"),
        ("absent", "there is no file"),
    ):
        with pytest.raises(InputError, match=said):
            build_network(
                spec("someones_network:build"),
                torch.Generator(),
                weights=here / f"{file}.safetensors",
            )


@pytest.mark.parametrize("way", ["zip", "before zip", "pickle"])
def test_pickled_weights_are_not_read_and_the_error_converts_them(way: str, here: Path) -> None:
    weights = {"a": torch.arange(3.0)}
    path = here / "weights.pt"
    if way == "pickle":
        path.write_bytes(pickle.dumps({"a": 1.0}))
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(InputError, match=r"weights\.pt is a pickle.* is not read") as caught:
        read_tensors(path)
    if way != "pickle":
        _, _, cure = str(caught.value).partition("once: ")
        exec(cure, {"safetensors": safetensors, "torch": torch})  # noqa: S102 - as a reader would
        assert torch.equal(read_tensors(here / "weights.safetensors")[0]["a"], weights["a"])


def test_a_checkpoint_needs_none_of_the_code(here: Path) -> None:
    network = build_network(spec("someones_network:build"), torch.Generator())
    calibrate(network, pictures(64))
    save_checkpoint(here / "checkpoint.safetensors", network, {})
    (here / "someones_network.py").unlink()
    sys.modules.pop("someones_network")
    loaded = load_network(here / "checkpoint.safetensors")
    images = pictures(8, seed=1)
    for bits in (32, 8, 4):
        np.testing.assert_array_equal(logits(loaded, images, bits), logits(network, images, bits))


def test_quantize_takes_mean_and_std_together_and_patterns_that_fit() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    example = torch.zeros(1, 3, 8, 8)
    for wrong, said in (
        ({"mean": MEAN}, "mean was given without std"),
        ({"mean": MEAN[:1], "std": STD[:1]}, "expected 3 means and 3 standard deviations"),
        ({"wide": ("head.*",)}, "wide: no layer matches 'head"),
        ({"bits": (9,)}, "bit-widths must be 32"),
    ):
        with pytest.raises(InputError, match=said):
            quantize(module, example, **wrong)
    network = quantize(module, example, bits=(8, 2), mean=MEAN, std=STD)
    assert (network.spec.classes, network.spec.input_size) == (2, 8)


def test_npz_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    images = pictures(60)
    labels = np.arange(60) % 3
    whole = ImageSet.from_arrays(images, labels, ["a", "b", "c"], name="three")
    whole.write(tmp_path)
    last = images.transpose(0, 2, 3, 1)  # channels last are taken too
    ImageSet.from_arrays(last, labels, split="test").write(tmp_path)
    training, holdout, test = (
        load_images("npz", tmp_path, split) for split in ("train", "holdout", "test")
    )
    assert (len(training), len(holdout), len(test)) == (54, 6, 60)
    assert training.classes == ("a", "b", "c")
    assert test.classes == ("0", "1", "2")
    np.testing.assert_array_equal(test.images, images)
    both = np.concatenate([training.images, holdout.images])
    assert {one.tobytes() for one in both} == {one.tobytes() for one in images}


def test_npz_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*train\.npz"):
        load_images("npz", tmp_path, "train")
    np.savez(tmp_path / "train.npz", pictures=np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(InputError, match="lacks images and labels; it holds pictures"):
        load_images("npz", tmp_path, "train")
    np.savez(tmp_path / "train.npz", images=pictures(4).astype(np.float32), labels=np.arange(4))
    with pytest.raises(InputError, match="expected uint8 images"):
        load_images("npz", tmp_path, "train")
    np.savez(tmp_path / "train.npz", images=pictures(4), labels=np.array([0.0, 1.0, 0.0, 1.0]))
    with pytest.raises(InputError, match="expected integer labels"):
        load_images("npz", tmp_path, "train")
