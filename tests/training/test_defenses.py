"""Defenses: schedules are pure, pools learn what they showed, settings are checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from deploy.core.errors import InputError
from tests.training.small_run import small_config
from training.defenses import (
    Batch,
    Defense,
    TrainingFacts,
    build_defense,
    check_defense,
    config_of_run,
)
from training.defenses.personal_pool import PersonalPool
from training.defenses.schedule import Schedule, scheduled_bit_width
from training.defenses.universal_pool import Kind, UniversalPool
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network

BIT_WIDTHS = (32, 8, 4, 2)


def facts(**changes: object) -> TrainingFacts:
    values: dict[str, object] = {
        "images": 50,
        "image_size": (16, 16),
        "classes": 10,
        "steps": 100,
        "seed": 5,
        "bit_widths": BIT_WIDTHS,
        "device": torch.device("cpu"),
    }
    return TrainingFacts(**{**values, **changes})  # type: ignore[arg-type]


def batch(count: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        pixels=torch.randint(0, 256, (count, 3, 16, 16), generator=generator).float(),
        labels=torch.arange(count) % 10,
        indices=torch.randperm(50, generator=generator)[:count],
    )


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_a_schedule_is_a_function_of_step_and_seed_and_uses_every_bit_width(
    schedule: Schedule,
) -> None:
    def drawn(seed: int) -> list[int]:
        return [
            scheduled_bit_width(schedule, BIT_WIDTHS, step, steps=400, seed=seed)
            for step in range(400)
        ]

    assert drawn(1) == drawn(1)
    counts = Counter(drawn(1))
    assert set(counts) == set(BIT_WIDTHS)
    if schedule == "cycle":
        assert set(counts.values()) == {100}
    if schedule == "uniform":
        assert min(counts.values()) > 60
        assert drawn(1) != drawn(2)
    if schedule == "sandwich":
        assert drawn(1)[:2] == [32, 2]
        assert counts[32] > 120
        assert counts[8] > 40
        two = [scheduled_bit_width(schedule, (8, 2), step, steps=4, seed=1) for step in range(4)]
        assert two == [8, 2, 8, 2]
    if schedule == "curriculum":
        assert set(drawn(1)[:50]) == {32}
        assert counts[32] > counts[2]


def small_network(**settings: Any) -> Network:
    spec = NetworkSpec(name="resnet8", classes=10, input_size=16, bit_widths=BIT_WIDTHS, **settings)
    return build_network(spec, torch.Generator().manual_seed(0))


def prepared(defense: Defense, step: int = 0) -> tuple[torch.Tensor, Batch]:
    network = small_network()
    network.set_bit_width(defense.bit_width(step))
    images = batch()
    return defense.prepare(step, images, network), images


def test_plain_qat_leaves_the_batch_alone() -> None:
    pixels, images = prepared(build_defense({"name": "qat"}, facts()))
    assert torch.equal(pixels, images.pixels)


def test_qadtr_patches_the_shares_that_its_settings_name() -> None:
    table = {"name": "qadtr", "universal_share": 0.25, "personal_share": 0.5}
    pixels, images = prepared(build_defense(table, facts()))
    changed = (pixels != images.pixels).flatten(1).any(dim=1)
    assert int(changed.sum()) == 12
    area = (pixels != images.pixels).any(dim=1).flatten(1).sum(dim=1)
    assert int(area.max()) <= 64


def test_each_part_of_qadtr_has_its_own_switch() -> None:
    alone = build_defense({"name": "qadtr", "aqapa": False}, facts())
    pixels, images = prepared(alone)
    assert torch.equal(pixels, images.pixels)
    assert not alone.needs_pixel_gradient
    no_dbwt = build_defense({"name": "qadtr", "dbwt": False}, facts())
    assert not torch.equal(prepared(no_dbwt, 0)[0], images.pixels)
    assert torch.equal(prepared(no_dbwt, 1)[0], images.pixels)
    network = small_network()
    build_defense({"name": "qadtr", "gir": False}, facts()).prepare(0, batch(), network)
    assert network.switch.gradient_noise == 0.0
    build_defense({"name": "qadtr"}, facts()).prepare(0, batch(), network)
    assert network.switch.gradient_noise > 0.0


def test_a_universal_patch_learns_only_at_its_own_bit_width_and_uphill() -> None:
    pool = UniversalPool(
        bit_widths=BIT_WIDTHS,
        sizes_px=(4,),
        per_bit_width=2,
        step_size=10.0,
        generator=torch.Generator().manual_seed(1),
        device=torch.device("cpu"),
    )
    square: Kind = ("square", 4, "random")
    before = pool.patches[square].clone()
    images = batch()
    rows = torch.arange(12)
    pool.patch(images.pixels, rows, 4, torch.Generator().manual_seed(2))
    wrong = (images.labels + 1) % 10
    generator = torch.Generator().manual_seed(3)
    pool.learn(torch.ones_like(images.pixels), wrong, images.labels, generator)
    moved = (pool.patches[square] != before).flatten(1).any(dim=1)
    assert bool(moved[pool.home == 4].any())
    assert not bool(moved[pool.home != 4].any())
    assert bool((pool.patches[square] >= before).all())
    assert float(pool.patches[square].max()) <= 255.0
    assert float(pool.success[square].max()) > 0.5


def test_a_personal_patch_stays_with_its_image() -> None:
    pool = PersonalPool(
        images=50,
        image_size=(16, 16),
        size_px=6,
        step_size=20.0,
        move=0.0,
        generator=torch.Generator().manual_seed(1),
        device=torch.device("cpu"),
    )
    before, places = pool.patches.clone(), pool.places.clone()
    images = batch()
    rows = torch.tensor([3, 7])
    patched = pool.patch(images.pixels, rows, images.indices, torch.Generator().manual_seed(2))
    pool.learn(torch.ones_like(images.pixels))
    owners = images.indices[rows]
    moved = (pool.patches != before).flatten(1).any(dim=1).nonzero().flatten()
    assert sorted(moved.tolist()) == sorted(owners.tolist())
    assert torch.equal(pool.places, places)
    top, left = places[owners[0]].tolist()
    inner = patched[3, :, top + 1 : top + 5, left + 1 : left + 5]
    assert torch.equal(inner, before[owners[0], :, 1:5, 1:5].float())
    assert torch.equal(patched[0], images.pixels[0])


def test_a_config_of_before_is_read_where_a_setting_that_is_gone_changed_nothing() -> None:
    def read(**settings: object) -> dict[str, object]:
        table = small_config(defense={"name": "qadtr", **settings}).as_dict()
        return config_of_run(table, "run.json").as_dict()["defense"]

    assert read(replays=1, inner_every=1) == read()
    assert read(inner_steps=3)["inner_steps"] == 3
    with pytest.raises(InputError, match=r"run\.json: .*unknown key 'replays'"):
        read(replays=2)
    with pytest.raises(InputError, match=r"run\.json: defense\.name must be one of"):
        read(name="")


def test_state_round_trips() -> None:
    defense = build_defense({"name": "qadtr"}, facts())
    state = {name: tensor.clone() for name, tensor in defense.state().items()}
    pixels, images = prepared(defense)
    defense.learn(0, torch.ones_like(pixels), torch.zeros(16, 10), images)
    assert any(not torch.equal(state[n], t) for n, t in defense.state().items())
    defense.load_state(state)
    assert all(torch.equal(state[n], t) for n, t in defense.state().items())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "pbat2"}, "must be one of qat, pbat, dwq"),
        ({"name": "qadtr", "strength": 1.0}, "unknown key 'strength'"),
        ({"name": "qadtr", "universal_share": 0.8, "personal_share": 0.5}, "at most 1"),
        ({"name": "qadtr", "schedule": "spiral"}, "cycle, uniform, curriculum"),
        ({"name": "qat", "schedule": "spiral"}, "cycle, uniform, curriculum"),
        ({"name": "qadtr", "step_size": "fast"}, "step_size must be a number; got 'fast'"),
        ({"name": "qadtr", "shapes": ["star"]}, "square, circle"),
        ({"name": "qadtr", "targeted": 9}, "0 to per_bit_width"),
        ({"name": "qadtr", "restart_below": 2.0}, "at least 0 and at most 1"),
        ({"name": "qadtr", "penalty_every": 0}, "at least 1"),
        ({"name": "qadtr", "gir_penalty": True, "aqapa": False}, "aqapa = true"),
        (
            {"name": "qadtr", "gir_penalty": True, "universal_share": 0.0, "personal_share": 0.0},
            "universal_share or personal_share over 0",
        ),
    ],
)
def test_wrong_settings_say_what_is_right(table: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_defense(table)


def test_a_patch_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"defense\.sizes_px"):
        build_defense({"name": "qadtr", "sizes_px": [20]}, facts())
    alone = replace(facts(), bit_widths=(8,))
    with pytest.raises(InputError, match=r"at least two network\.bit_widths"):
        build_defense({"name": "qadtr", "sizes_px": [4], "gir_penalty": True}, alone)
