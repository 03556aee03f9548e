"""Distillation: who teaches, what the loss is, and what stays."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deploy.core.errors import InputError
from tests.training.small_run import small_config
from tests.training.test_frozen import snapshot, started
from training.config import DistillationSettings, Teacher
from training.data import ImageSet
from training.distillation import Teaching, distilled, teacher_logits, teacher_of
from training.loop import RunOptions, train
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network
from training.trainer import Trainer


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [("next", {32: None, 8: 32, 4: 8, 2: 4}), ("widest", {32: None, 8: 32, 4: 32, 2: 32})],
)
def test_the_teacher_is_wider_and_trained_already(
    teacher: Teacher, expected: dict[int, int | None]
) -> None:
    settings = DistillationSettings(weight=0.5, teacher=teacher)
    network = started()
    for bits, teaches in expected.items():
        network.set_bit_width(bits)
        assert teacher_of(network, settings) == teaches
        assert teacher_of(network, replace(settings, weight=0.0)) is None
    spec = NetworkSpec(name="resnet8", classes=10, input_size=16, bit_widths=(32, 8, 4))
    fresh = build_network(spec, torch.Generator().manual_seed(0)).train()
    fresh.set_bit_width(4)
    # Float needs no scales; 8 bits has none yet.
    assert teacher_of(fresh, settings) == (None if teacher == "next" else 32)


def test_the_loss_is_the_documented_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, taught = torch.randn(2, 6, 5, generator=generator)
    labels = torch.arange(6) % 5
    settings = DistillationSettings(weight=0.3, temperature=3.0)
    entropy = F.cross_entropy(logits, labels)
    mixed = distilled(entropy, logits, taught, settings)
    p, q = (taught / 3.0).softmax(dim=1), (logits / 3.0).softmax(dim=1)
    divergence = (p * (p / q).log()).sum(dim=1).mean()
    torch.testing.assert_close(mixed, 0.7 * entropy + 0.3 * 9.0 * divergence)
    same = distilled(entropy, logits, logits, settings)
    torch.testing.assert_close(same, 0.7 * entropy)


def test_asking_the_teacher_leaves_the_network_as_it_was() -> None:
    network = started()
    network.set_bit_width(2)
    before = snapshot(network)
    taught = teacher_logits(network, 8, torch.rand(4, 3, 16, 16) * 255.0)
    assert taught.shape == (4, 10)
    assert not taught.requires_grad
    assert network.bit_width == 2
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(network).items())


def test_the_teacher_normalizes_by_the_batch_as_the_student_does() -> None:
    network, pixels = started(), torch.rand(8, 3, 16, 16) * 255.0
    network.set_bit_width(2)
    taught = teacher_logits(network, 4, pixels)
    # Running statistics that are wrong make no difference to it.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.add_(100.0)
    assert torch.equal(teacher_logits(network, 4, pixels), taught)
    # It is what training at that bit-width computes, learned scales left alone.
    network.set_bit_width(4)
    torch.testing.assert_close(network(pixels).detach(), taught)


def test_the_network_of_the_start_teaches_every_bit_width_as_it_was() -> None:
    network, pixels = started(), torch.rand(8, 3, 16, 16) * 255.0
    network.set_bit_width(32)
    network.eval()
    expected = network(pixels).detach()
    network.train()
    settings = DistillationSettings(weight=0.5, teacher="start")
    teaching = Teaching(settings, network, trained=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
    before = snapshot(network)
    for bits in network.bit_widths:
        network.set_bit_width(bits)
        taught = teaching.logits(network, pixels)
        assert taught is not None
        assert not taught.requires_grad
        assert torch.equal(taught, expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(network).items())
    assert Teaching(replace(settings, weight=0.0), network, trained=False).state() == {}


def test_the_network_of_the_start_teaches_only_where_it_can() -> None:
    settings = DistillationSettings(weight=0.5, teacher="start")
    with pytest.raises(InputError, match=r"training\.warm_start"):
        Teaching(settings, started(), trained=False)
    spec = NetworkSpec(name="resnet8", classes=10, input_size=16, bit_widths=(8, 4))
    narrow = build_network(spec, torch.Generator().manual_seed(0)).train()
    alone = build_network(replace(spec, bit_widths=(8,)), torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="needs a wider bit-width"):
        Teaching(replace(settings, teacher="next"), alone, trained=True)
    with pytest.raises(InputError, match=r"add 32 to network\.bit_widths"):
        Teaching(settings, narrow, trained=True)


def test_a_training_taught_by_its_start_resumes_to_the_same_bytes(
    small_digits: ImageSet, small_holdout: ImageSet, tmp_path: Path
) -> None:
    short = {"epochs": 0.16, "batch_size": 32, "learning_rate": 0.05}
    quiet = RunOptions(progress=False)
    begun = train(
        small_config(training=short), small_digits, small_holdout, tmp_path / "float", quiet, dict
    )
    config = small_config(
        training={**short, "warm_start": str(begun)},
        distillation={"weight": 0.5, "teacher": "start"},
    )
    written = []
    for stop in (None, 5):
        folder = tmp_path / str(stop)
        options = replace(quiet, stop_after=stop)
        path = train(config, small_digits, small_holdout, folder, options, dict)
        if stop is not None:
            begun.unlink()  # what teaches is in the state
            again = replace(quiet, resume=True)
            path = train(config, small_digits, small_holdout, folder, again, dict)
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_the_teacher_sees_neither_grey_squares_nor_patches(
    small_digits: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small_config(
        data={"kind": "digits", "size": 16, "masks": 1.0, "mask_px": [4, 4]},
        defense={"name": "qadtr"},
        distillation={"weight": 0.5},
    )
    run = Trainer(config, small_digits)
    shown = []

    def seen(network: Network, pixels: Tensor) -> None:
        shown.append(pixels)

    monkeypatch.setattr(run.teaching, "logits", seen)
    batch = run.batches.at(0, run.losses)
    run.one_step()
    assert batch.bare is not None
    assert not torch.equal(batch.bare, batch.pixels)
    assert torch.equal(shown[0], batch.bare)


def test_a_distilled_training_differs_only_where_there_is_a_teacher_and_resumes_to_the_same_bytes(
    small_digits: ImageSet, small_holdout: ImageSet, tmp_path: Path
) -> None:
    def steps(weight: float, accumulate: int) -> list[float]:
        training = {"epochs": 1.0, "batch_size": 16, "accumulate": accumulate}
        config = small_config(
            training=training,
            distillation={"weight": weight},
            network={"name": "resnet8", "bit_widths": [32, 4]},
        )
        run = Trainer(config, small_digits)
        return [run.one_step().loss for _ in range(2)]

    plain, taught, in_parts = steps(0.0, 1), steps(0.5, 1), steps(0.5, 2)
    assert taught[0] == plain[0]
    assert taught[1] != plain[1]
    assert all(math.isfinite(loss) for loss in in_parts)

    config = small_config(
        training={"epochs": 0.16, "batch_size": 32, "learning_rate": 0.05},
        defense={"name": "qadtr"},
        distillation={"weight": 0.5},
    )
    written = []
    for stop in (None, 5):
        folder, quiet = tmp_path / str(stop), RunOptions(progress=False, stop_after=stop)
        path = train(config, small_digits, small_holdout, folder, quiet, dict)
        if stop is not None:
            again = RunOptions(progress=False, resume=True)
            path = train(config, small_digits, small_holdout, folder, again, dict)
        written.append(path.read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 1.5}, "at least 0 and at most 1; got 1.5"),
        ({"temperature": 0.0}, "above 0"),
        ({"teacher": "me"}, "next, widest, start"),
        ({"strength": 1.0}, "valid keys are teacher, temperature, weight"),
    ],
)
def test_wrong_settings(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_config(distillation=change)
