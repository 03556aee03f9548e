"""What is refused from Python: images, networks and steps that do not belong together."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import qadtr
import qadtr.functions.train as train_function
from deploy.core.errors import InputError, NothingToEvaluate, UsageError
from qadtr.__main__ import main
from training.data import split_of
from training.loop import RunOptions
from training.run_folder import RunFolder


def images(split: str = "train", classes: int = 3, shape: tuple[int, ...] = (3, 8, 12)) -> Any:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, *shape), np.uint8)
    return qadtr.ImageSet.from_arrays(pixels, np.arange(30) % classes, split=split)


def network(classes: int = 3, **settings: Any) -> qadtr.Network:
    module = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(4, classes)),
    )
    return qadtr.quantize(module, torch.zeros(1, 3, 8, 12), bits=(32, 4), **settings)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (iter([]), "expected a map-style dataset, with len"),
        ([], "expected images, found none"),
        (
            [(np.zeros((8, 8, 3), np.uint8),)],
            r"expected pairs \(image, label\), but item 0 is a tuple",
        ),
        ([(np.zeros((8, 8, 3)) - 2.0, 0)], "image 0: expected uint8 of 0…255, or float of 0…1"),
        ([(np.full((8, 8, 3), 0.3141), 0)], "leave normalization out"),
        ([(np.zeros((8, 8, 3), np.int64), 0)], "got int64"),
        (
            [(np.zeros((8, 8, 3), np.uint8), 0), (np.zeros((8, 9, 3), np.uint8), 1)],
            "image 1 is 8×9×3, but the first one is 8×8×3",
        ),
        ([(np.zeros((8, 8, 5), np.uint8), 0)] * 2, "expected uint8 images N×3×H×W"),
        ([(np.zeros((8, 8, 3), np.uint8), 0)] * 2, "at least two distinct classes"),
    ],
)
def test_a_dataset_that_is_none_of_images(pairs: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        qadtr.ImageSet.from_dataset(pairs)


def test_a_dataset_of_torch_gives_its_bytes_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), np.uint8)
    scaled = torch.from_numpy(pixels).float() / 255.0  # as ToTensor
    dataset = torch.utils.data.TensorDataset(scaled, torch.arange(6) % 2)
    found = qadtr.ImageSet.from_dataset(dataset, ["even", "odd"], split="test")
    np.testing.assert_array_equal(found.images, pixels)
    assert (found.name, found.split, found.classes) == ("TensorDataset", "test", ("even", "odd"))
    grey = [(dataset[i][0][0], i % 2) for i in range(6)]
    assert qadtr.ImageSet.from_dataset(grey, ["even", "odd"]).images.shape == (6, 1, 8, 8)


def test_splits_that_are_not_there() -> None:
    with pytest.raises(InputError, match="this needs the test images, got train"):
        split_of(images(), "test")
    with pytest.raises(InputError, match="this needs the train images, got test, holdout"):
        split_of([images("test"), images("holdout")], "train")
    with pytest.raises(InputError, match="held out of a training set, not of the test set"):
        images("test").hold_out()
    with pytest.raises(InputError, match="expected one of train, holdout, test"):
        images("validation")
    rest, held = (split_of(images(), split) for split in ("train", "holdout"))
    assert (len(rest), len(held), held.split) == (27, 3, "holdout")


def test_a_network_without_scales_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no scales at 4 bits; .*qadtr\.calibrate"):
        qadtr.RunFolder.from_network(network(), tmp_path / "run", images())
    assert not (tmp_path / "run").exists()


def test_a_run_of_other_images_or_in_a_folder_that_is_taken(tmp_path: Path) -> None:
    made = network()
    qadtr.calibrate(made, images())
    for other in (images(classes=5), images(shape=(3, 8, 8)), images(shape=(1, 8, 12))):
        with pytest.raises(InputError, match=r"the network takes images .* in 3 classes"):
            qadtr.RunFolder.from_network(made, tmp_path / "run", other)
    run = qadtr.RunFolder.from_network(made, tmp_path / "run", images())
    assert run.defense == "calibrated"
    with pytest.raises(UsageError, match="already holds a run"):
        qadtr.RunFolder.from_network(made, tmp_path / "run", images())
    qadtr.RunFolder.from_network(made, tmp_path / "run", images(), overwrite=True)


def test_what_calibration_fitted_is_kept_until_something_is_trained(tmp_path: Path) -> None:
    made = network()
    qadtr.calibrate(made, images())
    some = torch.from_numpy(images().images[:4]).float()
    with made.at(4), torch.no_grad():
        expected = made(some)
    run = qadtr.RunFolder.from_network(made, tmp_path / "run", images())
    with run.load_network().at(4) as loaded, torch.no_grad():
        torch.testing.assert_close(loaded(some), expected, rtol=0.0, atol=0.0)
    made.train()
    assert not made.scales_stored
    with torch.no_grad():
        made.layers["0"].get_parameter("conv.weight").mul_(3.0)
    moved = qadtr.RunFolder.from_network(made, tmp_path / "moved", images())
    assert moved.defense == "own loop"
    with moved.load_network().at(4) as loaded, torch.no_grad():
        assert not torch.equal(loaded(some), expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": images("test")}, "this needs the train images"),
        ({"images": images(classes=5)}, "the training images are 3×8×12 in 5 classes"),
        ({"images": images(shape=(3, 8, 8))}, "the training images are 3×8×8"),
        ({"epochs": None}, r"the key 'training\.epochs' is missing"),
        ({"epochs": -1}, r"training\.epochs must be above 0"),
        ({"defense": "magic"}, r"defense\.name must be one of qat, pbat"),
        ({"defense": {"name": "qadtr", "colour": 1}}, "unknown key 'colour'"),
        ({"settings": {"training.speed": 1}}, r"unknown key 'training\.speed'"),
        ({"settings": {"network.bit_widths": [8]}}, "not that of the network"),
        ({"device": "moon"}, "moon"),
    ],
)
def test_a_training_that_cannot_be(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    words = {"images": images(), "epochs": 1, "settings": {}, **given}
    words["settings"] = {"training.batch_size": 9, "data.augment": "none", **words["settings"]}
    with pytest.raises(qadtr.QadtrError, match=said):
        qadtr.train(network(), words.pop("images"), tmp_path / "run", progress=False, **words)
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_a_network_is_left_as_it_is_and_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    made = network()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    settings = {"training.batch_size": 9, "data.augment": "none"}
    words: dict[str, Any] = {"epochs": 2, "settings": settings, "progress": False}
    first = qadtr.train(made, images(), tmp_path / "first", **words)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())
    with pytest.raises(UsageError, match="already holds a run"):
        qadtr.train(made, images(), tmp_path / "first", **words)
    again = qadtr.train(made, images(), tmp_path / "first", resume=True, **words)
    assert again.checkpoint_sha256 == first.checkpoint_sha256
    with pytest.raises(InputError, match="another config"):
        qadtr.train(network(), images(), tmp_path / "first", resume=True, **words)


@pytest.mark.parametrize("way", ["command", "python"])
def test_a_run_from_memory_that_was_broken_ends_with_the_same_bytes(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, given = network(), images()
    settings = {"training.batch_size": 12, "data.augment": "none"}
    words: dict[str, Any] = {"epochs": 4, "settings": {**settings, "name": "own"}}
    words |= {"progress": False, "defense": {"name": "qadtr", "sizes_px": [3], "personal_px": 3}}
    qadtr.train(made, given, tmp_path / "whole", **words)
    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(train_function, "RunOptions", partial(RunOptions, stop_after=4))
        with pytest.raises(InputError, match="its training was interrupted"):
            qadtr.train(made, given, broken, **words)
    resume = ["train", "--resume", "--out", str(broken)]
    capsys.readouterr()
    if way == "python":
        qadtr.train(made, given, broken, resume=True, **words)
    else:
        assert main(resume) == 2
        said = capsys.readouterr().err
        assert "its images were in memory; write the training images" in said
        assert f"qadtr train --resume --out {broken} --data DIR" in said
        assert said.count("\n") == 1
        other = qadtr.ImageSet.from_arrays(255 - given.images, given.labels)
        other.write(tmp_path / "other")
        assert main([*resume, "--data", str(tmp_path / "other")]) == 2
        assert "on other images" in capsys.readouterr().err
        given.write(tmp_path / "data")
        assert main([*resume, "--data", str(tmp_path / "data")]) == 0
    one, two = (tmp_path / name / "checkpoint.safetensors" for name in ("whole", "broken"))
    assert one.read_bytes() == two.read_bytes()


def test_the_start_of_a_run_whose_plan_is_damaged_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words: dict[str, Any] = {"epochs": 1, "progress": False}
    words["settings"] = {"training.batch_size": 9, "data.augment": "none"}
    qadtr.train(network(), images(), tmp_path / "run", **words)
    images().write(tmp_path / "data")
    start = tmp_path / "run" / "run.json"
    good = start.read_text()
    resume = ["train", "--resume", "--out", str(tmp_path / "run"), "--data", str(tmp_path / "data")]
    damaged: list[dict[str, Any]] = [{"plan": {}}, {}, {"plan": 3, "sha256": 4}]
    for broken in damaged:
        start.write_text(json.dumps(json.loads(good) | {"network": broken}))
        assert main(resume) == 2
        assert "run.json: plan" in capsys.readouterr().err
    start.write_text(json.dumps(json.loads(good) | {"network": 3}))
    assert main(resume) == 2
    assert "run.json is damaged" in capsys.readouterr().err


def test_a_step_of_ones_own_loop_out_of_order() -> None:
    made, given = network(), images()
    with pytest.raises(InputError, match=r"defense\.name must be one of"):
        qadtr.DefendedLoop(made, given, "magic", steps=3)
    with pytest.raises(InputError, match="the network takes images of"):
        qadtr.DefendedLoop(made, images(shape=(3, 8, 8)), steps=3)
    table = {"name": "qadtr", "sizes_px": [3], "personal_px": 3, "universal_share": 0.2}
    with pytest.raises(InputError, match="too large for images"):
        qadtr.DefendedLoop(made, given, {**table, "personal_px": 14}, steps=3)
    loop = qadtr.DefendedLoop(made, given, table, steps=3)
    few = torch.from_numpy(given.images[:4]).float()
    with pytest.raises(InputError, match="batch_size must be at least 8"):
        loop.prepare(0, few, torch.arange(4) % 3, torch.arange(4))
    with pytest.raises(UsageError, match="comes after prepare"):
        loop.learn(torch.zeros(10, 3))
    pixels, labels = torch.from_numpy(given.images[:10]).float(), torch.arange(10) % 3
    shown = loop.prepare(0, pixels, labels, torch.arange(10))
    with pytest.raises(UsageError, match=r"call loss\.backward"):
        loop.learn(made(shown))
    shown = loop.prepare(1, pixels, labels, torch.arange(10))
    assert made.switch.gradient_noise > 0.0
    logits = made(shown)
    logits.sum().backward()
    loop.learn(logits)
    assert made.switch.gradient_noise == 0.0
    assert set(loop.patches()) == {"universal-square-3px-random"}


@pytest.mark.parametrize("defense", ["qadtr", "pbat", "triqdef", "dwq"])
def test_the_last_batch_of_a_loop_may_be_short(defense: str) -> None:
    made, given = network(), images()
    sizes = {
        "qadtr": {"sizes_px": [3], "personal_px": 3, "universal_share": 0.25},
        "dwq": {"bits": list(made.bit_widths), "attack": "patch", "patch_px": 3},
    }
    table = {"name": defense, **sizes.get(defense, {"size_px": 3})}
    if defense != "qadtr":
        table["inner_steps"] = 1
    loop = qadtr.DefendedLoop(made, given, table, steps=20)
    made.train()
    for step, count in enumerate((9, 8, 5, 4, 2, 1)):
        pixels = torch.from_numpy(given.images[:count]).float()
        labels = torch.arange(count) % 3
        logits = made(loop.prepare(step, pixels, labels, torch.arange(count)))
        torch.nn.functional.cross_entropy(logits, labels).backward()
        loop.learn(logits)


def test_a_network_that_was_trained_is_not_called_calibrated(tmp_path: Path) -> None:
    made, given = network(), images()
    qadtr.calibrate(made, given)
    called = [RunFolder.from_network(made, tmp_path / "a", given).defense]
    made.train()
    for bits in made.bit_widths:
        made.set_bit_width(bits)
        made(torch.from_numpy(given.images[:10]).float())
    made.for_evaluation()  # as whoever looks at it before keeping it
    called.append(RunFolder.from_network(made, tmp_path / "b", given).defense)
    assert called == ["calibrated", "own loop"]


def test_names_and_modules_that_quantize_does_not_take() -> None:
    with pytest.raises(InputError, match="'resnet8' is the name of a network of this project"):
        network(name="resnet8")
    with pytest.raises(InputError, match=r"expected a torch nn\.Module, got a str"):
        qadtr.quantize("resnet8", torch.zeros(1, 3, 8, 8))  # type: ignore[arg-type]

    class MobileNetV2(nn.Sequential):
        """Named like one of the project's, and another one."""

    module = MobileNetV2(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    assert qadtr.quantize(module, torch.zeros(1, 3, 8, 8)).spec.name == "own-mobilenetv2"


def test_no_patch_is_nothing_to_evaluate(tmp_path: Path) -> None:
    made = network()
    qadtr.calibrate(made, images())
    run = qadtr.RunFolder.from_network(made, tmp_path / "run", [images(), images("test")])
    with pytest.raises(InputError, match="no exported model"):
        qadtr.evaluate(run, noise())
    with pytest.raises(NothingToEvaluate, match="no patch"):
        qadtr.evaluate(run, [])
    with pytest.raises(UsageError, match="expects a share of 0 to 1, got 30"):
        qadtr.bundle(run, tmp_path / "b", bits=4, patches=noise(), max_asr=30)
    assert qadtr.validate(tmp_path / "nowhere").exit_code == 2


def noise() -> qadtr.PatchSet:
    rng = np.random.default_rng(0)
    return qadtr.PatchSet(
        name="noise",
        kind="universal",
        patch=rng.integers(0, 256, (1, 3, 2, 2), np.uint8),
        mask=np.ones((2, 2), np.bool_),
        positions=np.zeros((4, 2), np.int32),
        image_indices=np.arange(4),
    )
