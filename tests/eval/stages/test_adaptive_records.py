"""The records of the adaptive evaluation: what is counted, and what is made anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.outcomes import unpack_bits
from deploy.core.patch_set import PatchSet, read_patch_set
from eval.attacks.adaptive.adaptive_settings import AdaptiveSettings
from eval.attacks.predictions import predict
from eval.measure.adaptive.adaptive_record import AdaptiveRecord
from eval.measure.adaptive.laws import at_random
from eval.measure.adaptive.task import AdaptiveRunSettings, Task
from eval.measure.patch_measures import patch_set_digest
from eval.stages.adaptive import run_adaptive
from export.lowering import lower
from export.qonnx_from_network import write_qonnx
from tests.eval.conftest import DigitNetwork
from training.data import ImageSet
from training.run_folder import RunFolder

WIDTHS = (3, 2)


@pytest.fixture
def task(tmp_path: Path, digit_network: DigitNetwork, held_out_digits: ImageSet) -> Task:
    """The first 120 digits, patched at the centre; the network has no run of its own."""
    facts = {"name": "resnet8", "bit_widths": [32, *WIDTHS], "classes": 10, "input_size": 32}
    config = {"defense": {"name": "qat"}, "seed": 0}
    run = RunFolder(path=tmp_path, sidecar={"network": facts, "config": config, "sha256": "0" * 64})
    network: Any = digit_network
    return Task(
        run=run,
        network=network,
        images=held_out_digits,
        indices=np.arange(120),
        positions=np.full((120, 2), 12, np.int64),
        attack=AdaptiveSettings(size_px=8, steps=2, most_draws=1, scoring_draws=1),
        settings=AdaptiveRunSettings(),
        provenance={},
        known={},
    )


def test_every_image_that_counts_against_a_drawn_bit_width_was_attacked(task: Task) -> None:
    record = at_random(task, WIDTHS, {})
    eligible = unpack_bits(record["outcomes"]["eligible"], len(task.indices))
    (file,) = task.run.patches.glob("adaptive-*.npz")
    attacked = np.asarray(read_patch_set(file).patch.any(axis=(1, 2, 3)))
    right = np.stack([predict(task.network, task.chosen, bits) == task.labels for bits in WIDTHS])
    assert not np.array_equal(*right)
    # The file is tried at each bit-width, so none that counts there is left out either.
    assert np.array_equal(attacked, right.any(axis=0))
    assert attacked[eligible].all()
    assert record["asr"]["n"] == record["draws"][0]["asr"]["n"] == eligible.sum()


def test_patches_given_are_part_of_the_key_whatever_their_name(task: Task) -> None:
    one, other = (np.full((120, 3, 8, 8), value, np.uint8) for value in (0, 255))
    keys = [task.key("8 bits", {"known": patch}) for patch in (one, one.copy(), other)]
    assert keys[0] == keys[1] != keys[2]


def test_two_sets_of_one_name_are_both_started_from_and_an_export_is_tried(
    run: RunFolder, tmp_path: Path
) -> None:
    attack = AdaptiveSettings(size_px=8, steps=1)
    settings = AdaptiveRunSettings(bit_widths=(4,), images=None)

    def records(*given: PatchSet) -> AdaptiveRecord:
        (record,) = run_adaptive(run, None, attack, settings, {}, given)
        return record

    first = records()
    assert first["on_engine"] is None
    (file,) = run.patches.glob("adaptive-*.npz")
    found = read_patch_set(file)
    given = replace(found, patch=255 - found.patch)
    stages = [stage["stage"] for stage in records(found, given)["stages"]]
    names = [name.removesuffix(" as it is") for name in stages if name.endswith(" as it is")]
    assert names == [found.name, f"{found.name} #{patch_set_digest(given)[:6]}"]

    searches = {path: path.stat().st_mtime_ns for path in run.patches.glob(".adaptive-*")}
    model = run.model_file(4)
    model.parent.mkdir()
    write_qonnx(run.load_network(), 4, tmp_path / "qonnx", checkpoint_sha256=run.checkpoint_sha256)
    lower(tmp_path / "qonnx", model, target="onnxruntime")
    exported = records()
    assert exported["on_engine"] is not None and exported["key"] != first["key"]
    assert {**exported, "key": "", "on_engine": None} == {**first, "key": ""}
    # Nothing was searched again, and with that file nothing is made again.
    assert {path: path.stat().st_mtime_ns for path in run.patches.glob(".adaptive-*")} == searches
    assert records() == exported
