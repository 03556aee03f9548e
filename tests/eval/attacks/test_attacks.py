"""The patch attacks against a small real network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deploy.core.errors import InputError
from deploy.core.patch_set import PatchSet, random_floor, read_patch_set, write_patch_set
from deploy.core.success import AttackSuccess, attack_success
from eval.attacks.base import PatchAttack
from eval.attacks.gap import Gap, GapSettings
from eval.attacks.lavan import Lavan, LavanSettings
from eval.attacks.location import Location, LocationSettings
from eval.attacks.predictions import predict
from eval.attacks.problem import Crafted, Problem
from eval.attacks.sparse_rs import SparseRs, SparseRsSettings
from training.data import ImageSet
from training.prediction import SwitchableNetwork

# name → attack; per-image ones are made on 120 test images, universal ones on the training images
CASES: dict[str, PatchAttack[Any]] = {
    "lavan centre": Lavan(LavanSettings(size_px=8, steps=15, batch_size=32)),
    "lavan corner": Lavan(
        LavanSettings(size_px=10, steps=15, placement="top-left", margin_px=2, restarts=2)
    ),
    "lavan 4 and 32 bits": Lavan(LavanSettings(size_px=9, steps=12, bit_widths=(32, 4))),
    "lavan cross-entropy, unshifted": Lavan(
        LavanSettings(size_px=8, steps=15, loss="cross-entropy", shift_px=0)
    ),
    "lavan targeted": Lavan(
        LavanSettings(
            size_px=12, steps=20, target=3, loss="target-over-source", start="grey", shift_px=0
        )
    ),
    "lavan universal": Lavan(LavanSettings(kind="universal", size_px=12, steps=60, target=3)),
    "gap": Gap(GapSettings(size_px=14, steps=60, confidence=5.0, batch_size=64)),
    "gap circle targeted": Gap(
        GapSettings(size_px=16, steps=60, shape="circle", target=8, restarts=2, batch_size=64)
    ),
    "gap scaled and turned": Gap(
        GapSettings(size_px=14, steps=60, scale_range=(0.9, 1.1), rotation_degrees=15)
    ),
    "location": Location(LocationSettings(size_px=7, steps=12)),
    "location full, targeted circle": Location(
        LocationSettings(size_px=12, steps=12, moves="full", shape="circle", target=3)
    ),
    "sparse-rs": SparseRs(SparseRsSettings(size_px=9, steps=60)),
    "sparse-rs at the centre": SparseRs(SparseRsSettings(size_px=14, steps=60, placement="centre")),
    "sparse-rs by labels": SparseRs(SparseRsSettings(size_px=12, steps=60, answers="labels")),
}


@pytest.fixture(scope="module")
def make(
    digit_network: SwitchableNetwork, digits: ImageSet, held_out_digits: ImageSet
) -> Callable[..., PatchSet]:
    def run(attack: PatchAttack[Any], seed: int = 0, **more: Any) -> PatchSet:
        generator = torch.Generator().manual_seed(seed)
        if attack.kind == "universal":
            tried_on = np.arange(len(held_out_digits))
            images, labels = digits.images, digits.labels
            more = {"tried_on": tried_on, "made_on": "train", **more}
        else:
            images, labels = held_out_digits.images[:120], held_out_digits.labels[:120]
        return attack.run(digit_network, images, labels, generator, progress=False, **more)

    return run


def success(network: SwitchableNetwork, patch_set: PatchSet, images: ImageSet) -> AttackSuccess:
    chosen = images.images[patch_set.image_indices]
    return attack_success(
        predict(network, chosen, 32),
        predict(network, patch_set.paste_on(chosen), 32),
        images.labels[patch_set.image_indices],
        patch_set.target,
    )


@pytest.mark.parametrize("case", CASES)
def test_beats_the_random_floor_inside_its_mask(
    case: str,
    make: Callable[..., PatchSet],
    digit_network: SwitchableNetwork,
    held_out_digits: ImageSet,
) -> None:
    attack = CASES[case]
    made = make(attack)
    noise = random_floor(made, np.random.default_rng(0))
    won = success(digit_network, made, held_out_digits)
    floor = success(digit_network, noise, held_out_digits)
    assert won.share["low"] > floor.share["high"]
    assert made.kind == attack.kind
    assert made.patch.dtype == np.uint8
    assert not made.patch[:, :, ~made.mask].any()
    # Sparse-RS paints with the corners of the colour cube.
    assert len(np.unique(made.patch[:, :, made.mask])) > (1 if "sparse" in case else 20)
    assert made.target == attack.settings.target
    assert made.origin.attack == attack.name
    assert made.origin.settings == attack.settings.as_record()
    assert made.origin.area == {"px": made.area_px, "share": made.area_px / 1024}
    assert made.origin.more["queries_per_image"] == attack.queries_per_image()
    own = made.origin.more["on_source"][0]["asr"]
    if made.kind == "per-image":  # judged on the very images and places
        assert own == won.share
    else:  # other images and places: the intervals meet
        assert own["low"] <= won.share["high"]
        assert own["high"] >= won.share["low"]


def test_places_follow_the_settings(make: Callable[..., PatchSet]) -> None:
    corner = make(Lavan(LavanSettings(size_px=6, steps=1, placement="bottom-right", margin_px=3)))
    assert np.unique(corner.positions, axis=0).tolist() == [[23, 23]]
    centre = make(Lavan(LavanSettings(size_px=6, steps=1)))
    assert np.unique(centre.positions, axis=0).tolist() == [[13, 13]]
    random = make(Gap(GapSettings(size_px=6, steps=1)))
    assert len(random.positions) == 359
    assert len(np.unique(random.positions, axis=0)) > 200


@pytest.mark.parametrize("case", ["lavan corner", "gap circle targeted", "location", "sparse-rs"])
def test_same_seed_same_bytes(case: str, make: Callable[..., PatchSet], tmp_path: Path) -> None:
    files = []
    for number, seed in enumerate((5, 5, 6)):
        path = tmp_path / f"{number}.npz"
        write_patch_set(path, make(CASES[case], seed=seed))
        read_patch_set(path)
        files.append((path.read_bytes(), path.with_suffix(".json").read_bytes()))
    assert files[0] == files[1]
    assert files[0][0] != files[2][0]


class Interrupted(Exception):
    pass


class InterruptedLavan(Lavan):
    """Stops in the middle of its second problem."""

    problems = 0

    def optimize(self, problem: Problem, stepped: Callable[[], None]) -> Crafted:
        self.problems += 1
        if self.problems == 2:
            raise Interrupted
        return super().optimize(problem, stepped)


@pytest.mark.parametrize("kind", ["per-image", "universal"])
def test_resumed_equals_uninterrupted(
    kind: Any, make: Callable[..., PatchSet], tmp_path: Path
) -> None:
    settings = LavanSettings(kind=kind, size_px=6, steps=3, restarts=2, batch_size=25)
    whole = make(Lavan(settings))
    resume = tmp_path / "resume.npz"
    with pytest.raises(Interrupted):
        make(InterruptedLavan(settings), resume_from=resume)
    resumed = make(Lavan(settings), resume_from=resume)
    assert np.array_equal(resumed.patch, whole.patch)
    assert np.array_equal(resumed.positions, whole.positions)
    assert resumed.origin == whole.origin
    with pytest.raises(InputError, match="other settings, images, seed or network"):
        make(Lavan(settings), resume_from=resume, seed=1)


@pytest.mark.parametrize(
    "case",
    [
        Gap(GapSettings(size_px=8, steps=12, restarts=2, batch_size=16, rotation_degrees=10)),
        Lavan(LavanSettings(size_px=6, steps=12, batch_size=70)),
        Location(LocationSettings(size_px=6, steps=12, batch_size=70, first_places=2)),
    ],
    ids=lambda attack: attack.name,
)
def test_a_running_optimization_is_resumed_in_its_middle(
    case: PatchAttack[Any],
    make: Callable[..., PatchSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eval.attacks.found.SECONDS_BETWEEN_SAVES", 0.0)
    whole = make(case)
    resume, steps = tmp_path / "resume.npz", 0

    def counted(attack: Any) -> Any:
        class Stopped(type(attack)):  # type: ignore[misc]
            def optimize(self, problem: Problem, stepped: Callable[[], None]) -> Crafted:
                def one_more() -> None:
                    nonlocal steps
                    steps += 1
                    if steps == 12 + 7:  # in the second restart or batch
                        raise Interrupted
                    stepped()

                return super().optimize(problem, one_more)

        return Stopped(attack.settings)

    with pytest.raises(Interrupted):
        make(counted(case), resume_from=resume)
    with np.load(resume) as kept:
        assert (int(kept["units_done"]), int(kept["unfinished_done"])) == (1, 7)
    monkeypatch.setattr("eval.attacks.found.SECONDS_BETWEEN_SAVES", 1e9)
    resumed = make(case, resume_from=resume)
    assert np.array_equal(resumed.patch, whole.patch)
    assert np.array_equal(resumed.positions, whole.positions)
    assert resumed.origin == whole.origin


def test_more_restarts_never_lose(
    make: Callable[..., PatchSet], digit_network: SwitchableNetwork, held_out_digits: ImageSet
) -> None:
    wins = [
        success(
            digit_network,
            make(Lavan(LavanSettings(size_px=6, steps=6, restarts=restarts))),
            held_out_digits,
        ).share["k"]
        for restarts in (1, 3)
    ]
    assert wins[1] >= wins[0] > 0


def test_the_place_that_was_sought_is_worth_it(
    make: Callable[..., PatchSet], digit_network: SwitchableNetwork, held_out_digits: ImageSet
) -> None:
    fixed = make(Lavan(LavanSettings(size_px=5, steps=12, placement="random")))
    sought = make(Location(LocationSettings(size_px=5, steps=12)))
    with_place, without = (
        success(digit_network, made, held_out_digits).share["k"] for made in (sought, fixed)
    )
    assert with_place > without + 5


def test_the_content_follows_its_place(digit_network: SwitchableNetwork, digits: ImageSet) -> None:
    """Only the box at the final place differs from the image."""
    images, labels = digits.images[:16], digits.labels[:16]
    made = Location(LocationSettings(size_px=6, steps=8, moves="full")).run(
        digit_network, images, labels, torch.Generator().manual_seed(1), progress=False
    )
    changed = (made.paste_on(images) != images).any(axis=1)
    for row, (top, left) in enumerate(made.positions):
        outside = changed[row].copy()
        outside[top : top + 6, left : left + 6] = False
        assert not outside.any()
    assert len(np.unique(made.positions, axis=0)) > 4


class Idle(Lavan):
    """Returns its start, far out of range: what the base class makes of it."""

    def optimize(self, problem: Problem, stepped: Callable[[], None]) -> Crafted:
        return Crafted(patch=problem.start * 3.0 - 200.0)


def test_the_base_class_clips_rounds_and_scores(make: Callable[..., PatchSet]) -> None:
    made = make(Idle(LavanSettings(size_px=8, shape="circle")))
    shown = made.patch[:, :, made.mask]
    assert shown.min() == 0
    assert shown.max() == 255
    assert np.mean(shown == 0) > 0.2
    assert made.origin.more["on_source"][0]["asr"]["value"] < 0.5


def test_the_network_is_left_as_it_was(digit_network: SwitchableNetwork, digits: ImageSet) -> None:
    digit_network.train(True)
    try:
        Lavan(LavanSettings(size_px=4, steps=1)).run(
            digit_network, digits.images[:3], digits.labels[:3], torch.Generator(), progress=False
        )
        assert digit_network.training
        assert all(parameter.requires_grad for parameter in digit_network.parameters())
    finally:
        digit_network.train(False)


@pytest.mark.parametrize("count", [1, 33])
def test_a_batch_of_one_is_still_per_image(
    count: int, digit_network: SwitchableNetwork, digits: ImageSet
) -> None:
    made = Lavan(LavanSettings(size_px=4, steps=2, batch_size=32)).run(
        digit_network,
        digits.images[:count],
        digits.labels[:count],
        torch.Generator(),
        image_indices=np.arange(100, 100 + count),
        progress=False,
    )
    assert made.patch.shape == (count, 3, 4, 4)
    assert made.image_indices.tolist() == list(range(100, 100 + count))


def test_bad_input_is_refused(digit_network: SwitchableNetwork, digits: ImageSet) -> None:
    images, labels = digits.images[:3], digits.labels[:3]
    draw = torch.Generator()
    with pytest.raises(InputError, match="target 10 is not a class; the network has 10"):
        Lavan(LavanSettings(target=10)).run(digit_network, images, labels, draw)
    with pytest.raises(InputError, match="one integer label for each of 3 images"):
        Lavan(LavanSettings()).run(digit_network, images, labels[:2], draw)
    with pytest.raises(InputError, match="does not fit"):
        Lavan(LavanSettings(size_px=33)).run(digit_network, images, labels, draw)
    for settings in (LavanSettings(mask_px=32), LavanSettings(shift_px=32)):
        with pytest.raises(InputError, match=r"_px is 32, which leaves nothing of images of 32×32"):
            Lavan(settings).run(digit_network, images, labels, draw)
    with pytest.raises(InputError, match="confidence must be at least 0"):
        LavanSettings(confidence=-1.0)
    with pytest.raises(InputError, match="give image_indices, not tried_on"):
        Lavan(LavanSettings()).run(digit_network, images, labels, draw, tried_on=np.arange(3))
    with pytest.raises(InputError, match="tried_on, the indices of those, not image_indices"):
        Gap(GapSettings()).run(digit_network, images, labels, draw, image_indices=np.arange(3))


def test_a_foreign_resume_file_is_refused(make: Callable[..., PatchSet], tmp_path: Path) -> None:
    path = tmp_path / "resume.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(InputError):
        make(Lavan(LavanSettings(size_px=4, steps=1)), resume_from=path)
