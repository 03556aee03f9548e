"""Measures from predictions, and the driver with its resumable records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.latency import Latency
from deploy.core.outcomes import image_indices, unpack_bits
from deploy.core.patch_set import PatchSet, write_patch_set
from deploy.core.records import provenance
from deploy.core.share import share
from eval.attacks.lavan import Lavan, LavanSettings
from eval.attacks.predictions import predict
from eval.measure.evaluation import evaluate_model
from eval.measure.evaluation_record import (
    EvaluationRecord,
    ModelFacts,
    asr_over_common_set,
    read_evaluations,
)
from eval.measure.patch_measures import common_set, drift, evaluate_patch, patch_set_digest
from eval.measure.subject import TORCH, NetworkPredictor
from training.data import ImageSet
from training.prediction import SwitchableNetwork

LABELS = np.array([0, 1, 2, 0, 1, 2])
CLEAN = np.array([0, 1, 2, 0, 0, 2])  # image 4 is wrong
PATCHED = np.array([0, 2, 0, 2, 2, 2])
INDICES = np.array([10, 11, 12, 13, 14, 15])


def measured(target: int | None = None, **more: Any) -> Any:
    arguments: dict[str, Any] = {
        "clean": CLEAN,
        "patched": PATCHED,
        "floor": CLEAN,
        "floor_seed": 7,
        "labels": LABELS,
        "image_indices": INDICES,
        "target": target,
    }
    return evaluate_patch(**(arguments | more))


def test_untargeted_measures_by_hand() -> None:
    found = measured()
    assert found["clean_accuracy_patched_images"] == share(5, 6)
    assert found["robust_accuracy"] == share(2, 6)
    assert found["asr"] == share(3, 5)
    assert found["asr_all_images"] == share(4, 6)
    assert found["floor"] == {"asr": share(0, 5), "seed": 7}
    assert found["asr_common"] is None
    outcomes = found["outcomes"]
    assert (outcomes["first_index"], outcomes["indices"]) == (10, None)
    assert unpack_bits(outcomes["success"], 6).tolist() == [False, True, True, True, False, False]
    assert unpack_bits(outcomes["clean_correct"], 6).tolist() == (CLEAN == LABELS).tolist()
    assert unpack_bits(outcomes["patched_correct"], 6).tolist() == (PATCHED == LABELS).tolist()


def test_targeted_measures_leave_out_the_targets_own_images() -> None:
    found = measured(target=2)
    assert found["asr"] == share(2, 3)  # of images 0, 1 and 3
    eligible = unpack_bits(found["outcomes"]["eligible"], 6)
    assert eligible.tolist() == [True, True, False, True, False, False]


def test_common_set_restricts_the_denominator() -> None:
    common = common_set([("own", CLEAN), ("other", np.array([0, 0, 2, 1, 1, 2]))], LABELS)
    assert common.models == ("own", "other")
    assert common.member.tolist() == [True, False, True, False, False, True]
    assert measured(common=common.member)["asr_common"] == share(1, 3)
    assert measured(common=np.zeros(6, dtype=np.bool_))["asr_common"] is None


def test_nothing_right_is_no_zero() -> None:
    with pytest.raises(NothingToEvaluate):
        measured(clean=(LABELS + 1) % 3)


def test_indices_with_gaps_are_kept() -> None:
    gaps = np.array([1, 2, 3, 5, 8, 13])
    assert image_indices(measured(image_indices=gaps)["outcomes"]).tolist() == gaps.tolist()


def test_drift_names_the_flips() -> None:
    picked = np.array([0, 2, 3, 5])
    network_clean, network_patched = CLEAN.copy(), PATCHED[picked].copy()
    network_clean[5] = 1
    network_patched[1] = 2
    found = drift(
        engine_clean=CLEAN,
        engine_patched=PATCHED[picked],
        network_clean=network_clean,
        network_patched=network_patched,
        labels=LABELS,
        image_indices=picked,
        target=None,
    )
    assert found["clean_flips"] == [5]
    assert found["patched_flips"] == [2]
    assert found["clean_agreement"] == share(5, 6)
    assert found["patched_agreement"] == share(3, 4)
    assert found["fake_quantized_asr"] == share(1, 3)
    assert found["fake_quantized_clean"] == share(4, 6)
    assert found["asr_points"] == pytest.approx(100 * (2 / 4 - 1 / 3))


# ---------------------------------------------------------------------- the driver


class Counting:
    """An engine that counts the images it is asked for; ``wrong`` images get another class."""

    name = TORCH

    def __init__(self, network: SwitchableNetwork, bits: int, wrong: int = 0) -> None:
        self.predictor = NetworkPredictor(network=network, bit_width=bits)
        self.wrong = wrong
        self.images = 0

    def predict(self, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.int64]:
        self.images += len(images)
        classes = self.predictor.predict(images, batch_size)
        classes[: self.wrong] = (classes[: self.wrong] + 1) % 10
        return classes


def model_facts(bits: int, name: str = "digits-cnn") -> ModelFacts:
    return ModelFacts(
        network=name,
        defense="plain",
        bit_width=bits,
        checkpoint_sha256=None,
        file=None,
        file_sha256=None,
        file_size_bytes=None,
        engine="torch",
        engine_version=torch.__version__,
        certificate=None,
    )


@pytest.fixture(scope="module")
def patch_sets(digit_network: SwitchableNetwork, held_out_digits: ImageSet) -> list[PatchSet]:
    chosen = np.arange(20, 140)
    return [
        Lavan(LavanSettings(size_px=size, steps=20, batch_size=120)).run(
            digit_network,
            held_out_digits.images[chosen],
            held_out_digits.labels[chosen],
            torch.Generator().manual_seed(0),
            image_indices=chosen,
            source={"network": "digits-cnn", "defense": "plain", "seed": 0},
            made_on="test",
            progress=False,
        )
        for size in (6, 8)
    ]


Run = Callable[..., list[EvaluationRecord]]


@pytest.fixture
def run(
    digit_network: SwitchableNetwork,
    held_out_digits: ImageSet,
    patch_sets: list[PatchSet],
    tmp_path: Path,
) -> Run:
    def evaluate(engine: Counting, **more: Any) -> list[EvaluationRecord]:
        arguments: dict[str, Any] = {
            "model": model_facts(engine.predictor.bit_width),
            "records": tmp_path / "records",
            "provenance": provenance(seed=0, config={}),
            "network": digit_network,
            "progress": False,
        }
        sets = more.pop("patch_sets", patch_sets)
        return evaluate_model(engine, held_out_digits, sets, **(arguments | more))

    return evaluate


def test_records_hold_what_was_measured_and_come_back(
    run: Run,
    digit_network: SwitchableNetwork,
    held_out_digits: ImageSet,
    patch_sets: list[PatchSet],
    tmp_path: Path,
) -> None:
    latency = Latency(
        p50_ms=1.0,
        p95_ms=2.0,
        p99_ms=3.0,
        images_per_s=900.0,
        batch_size=1,
        threads=1,
        repeats=10,
    )
    records = run(Counting(digit_network, 4), latency=lambda: latency)
    assert read_evaluations(tmp_path / "records") in (records, records[::-1])
    record, patch_set = records[1], patch_sets[1]
    chosen = patch_set.image_indices
    labels = held_out_digits.labels[chosen]
    clean = predict(digit_network, held_out_digits.images[chosen], 4)
    patched = predict(digit_network, patch_set.paste_on(held_out_digits.images[chosen]), 4)
    assert record["asr"]["n"] == int((clean == labels).sum())
    assert record["asr"]["k"] == int(((clean == labels) & (patched != labels)).sum())
    assert record["asr"]["low"] > record["floor"]["asr"]["high"]
    assert record["clean_accuracy"]["n"] == record["images"]["n"] == len(held_out_digits)
    assert record["robust_accuracy"]["k"] == int((patched == labels).sum())
    drifted = record["drift"]
    assert drifted is not None
    assert (drifted["asr_points"], drifted["clean_flips"], drifted["patched_flips"]) == (0, [], [])
    assert record["latency"] == latency.as_record()
    facts = record["patch"]
    assert (facts["attack"], facts["kind"], facts["size_px"]) == ("lavan", "per-image", [8, 8])
    assert (facts["area_px"], facts["area_share"]) == (64, 64 / 1024)
    assert (facts["placement"], facts["steps"], facts["made_on"]) == ("centre", 20, "test")
    assert facts["source"]["network"] == "digits-cnn"
    assert facts["source"]["bit_widths"] == [32]
    assert image_indices(record["outcomes"]).tolist() == chosen.tolist()


def test_an_interrupted_evaluation_continues_where_it_stopped(
    run: Run,
    digit_network: SwitchableNetwork,
    held_out_digits: ImageSet,
    patch_sets: list[PatchSet],
) -> None:
    first = run(Counting(digit_network, 4), patch_sets=patch_sets[:1])
    engine = Counting(digit_network, 4)
    both = run(engine)
    assert both[0] == first[0]
    # Clean images once, then the patched images and the random floor of the second set alone.
    assert engine.images == len(held_out_digits) + 2 * 120
    again = Counting(digit_network, 4)
    assert run(again) == both
    assert again.images == 0


def test_what_a_result_depends_on_makes_another_record(
    run: Run, digit_network: SwitchableNetwork, patch_sets: list[PatchSet], tmp_path: Path
) -> None:
    one = patch_sets[:1]
    run(Counting(digit_network, 4), patch_sets=one)
    changes: list[Mapping[str, Any]] = [
        {"model": model_facts(4, name="another")},
        {"floor_seed": 1},
        {"network": None},
        {"patch_sets": [replace(patch_sets[0], name="renamed")]},
    ]
    for number, change in enumerate(changes):
        run(Counting(digit_network, 4), **{"patch_sets": one, **change})
        assert len(read_evaluations(tmp_path / "records")) == number + 2
    run(Counting(digit_network, 32), patch_sets=one)
    assert len(read_evaluations(tmp_path / "records")) == len(changes) + 2


def test_an_engine_that_departs_shows_as_drift(
    run: Run, digit_network: SwitchableNetwork, patch_sets: list[PatchSet]
) -> None:
    (record,) = run(Counting(digit_network, 4, wrong=3), patch_sets=patch_sets[:1])
    drifted = record["drift"]
    assert drifted is not None
    assert drifted["clean_flips"] == [0, 1, 2]
    assert drifted["patched_flips"] == [20, 21, 22]
    (without,) = run(Counting(digit_network, 4), patch_sets=patch_sets[:1], network=None)
    assert without["drift"] is None


def test_common_set_of_two_networks(
    run: Run,
    digit_network: SwitchableNetwork,
    other_digit_network: SwitchableNetwork,
    held_out_digits: ImageSet,
    patch_sets: list[PatchSet],
) -> None:
    networks = {"own": digit_network, "other": other_digit_network}
    common = common_set(
        [(name, predict(net, held_out_digits.images, 32)) for name, net in networks.items()],
        held_out_digits.labels,
    )
    records = [
        run(
            Counting(net, 32),
            model=model_facts(32, name),
            network=None,
            common=common,
            patch_sets=patch_sets[:1],
        )[0]
        for name, net in networks.items()
    ]
    # The records alone give the same figures as the common set handed in.
    assert [record["asr_common"] for record in records] == asr_over_common_set(records)
    assert records[0]["common_set_of"] == ["own", "other"]
    assert records[0]["asr_common"] != records[0]["asr"]


def test_patch_sets_of_other_images_are_refused(
    run: Run, digit_network: SwitchableNetwork, patch_sets: list[PatchSet]
) -> None:
    foreign = replace(patch_sets[0], image_indices=np.arange(5000, 5120))
    with pytest.raises(InputError, match="is for image 5119, but digits, test has"):
        run(Counting(digit_network, 4), patch_sets=[foreign])


def test_the_recorded_digest_is_that_of_the_file(
    patch_sets: list[PatchSet], tmp_path: Path
) -> None:
    path = tmp_path / "patch.npz"
    write_patch_set(path, patch_sets[0])
    assert patch_set_digest(patch_sets[0]) in path.with_suffix(".json").read_text("utf-8")
