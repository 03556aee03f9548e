"""The records of the adaptive evaluation: what is counted, and what is made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.outcomes import unpack_bits
from deploy.core.patch_set import read_patch_set
from eval.attacks.adaptive.adaptive_settings import AdaptiveSettings
from eval.attacks.predictions import predict
from eval.measure.adaptive.laws import at_random
from eval.measure.adaptive.task import AdaptiveRunSettings, Task
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
