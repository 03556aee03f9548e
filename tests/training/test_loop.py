"""The loop: learns, resumes to the same bytes, survives a kill, stops at NaN."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.core.strict_json import json_bytes
from tests.training.planned import last
from tests.training.small_run import saved, small_config
from training.checkpoint import CHECKPOINT, RESUME, load_network, read_run_state, read_sidecar
from training.data import ImageSet
from training.loop import POOL, RunOptions, train
from training.network_spec import NetworkSpec
from training.prediction import predict
from training.quantize import Network
from training.quantize.build import build_network
from training.run_start import START, read_start
from training.trainer import TrainingDiverged


def run(
    folder: Path, images: ImageSet, holdout: ImageSet, options: RunOptions, **changes: object
) -> Path:
    quiet = replace(options, progress=False)
    return train(small_config(**changes), images, holdout, folder, quiet, dict)


@pytest.mark.parametrize(
    "defense",
    [
        {"name": "qat"},
        {"name": "qadtr"},
        {"name": "qadtr", "inner_steps": 1},
        {"name": "qadtr", "gir_penalty": True, "targeted": 2, "turn": True, "restart_after": 1},
        {"name": "pbat", "size_px": 4, "inner_steps": 1},
        {"name": "pbat", "size_px": 4, "inner_steps": 1, "kind": "universal", "location": "random"},
        {"name": "dwq", "inner_steps": 1, "bits": [32, 8, 4, 2]},
        {"name": "triqdef", "size_px": 4, "inner_steps": 1, "wide_until": 0.0},
    ],
    ids=lambda table: "-".join(str(value) for value in table.values()),
)
def test_an_interrupted_run_resumes_to_the_same_bytes(
    tmp_path: Path, small_digits: ImageSet, small_holdout: ImageSet, defense: dict[str, object]
) -> None:
    short = {"epochs": 0.16, "batch_size": 32, "learning_rate": 0.05}
    changes = {"defense": defense, "training": short}
    whole = run(tmp_path / "whole", small_digits, small_holdout, RunOptions(), **changes)
    parts = tmp_path / "parts"
    stopped = RunOptions(stop_after=4, save_every=2)
    assert run(parts, small_digits, small_holdout, stopped, **changes) == parts / RESUME
    assert not (parts / CHECKPOINT).exists()
    resumed = run(parts, small_digits, small_holdout, RunOptions(resume=True), **changes)
    assert resumed.read_bytes() == whole.read_bytes()


def test_saving_often_and_showing_progress_change_no_byte_and_a_stop_leaves_no_checkpoint(
    small_digits: ImageSet, small_holdout: ImageSet, tmp_path: Path
) -> None:
    config = small_config(training={"epochs": 0.1, "batch_size": 32, "learning_rate": 0.05})
    written = []
    for name, options in (
        ("quiet", RunOptions(progress=False)),
        ("shown", RunOptions(progress=True, save_every=1)),
    ):
        path = train(config, small_digits, small_holdout, tmp_path / name, options, dict)
        written.append(path.read_bytes())
    assert written[0] == written[1]
    stopped = tmp_path / "stopped"
    options = RunOptions(progress=False, stop_after=1)
    train(config, small_digits, small_holdout, stopped, options, dict)
    assert not (stopped / CHECKPOINT).exists()


def test_training_learns_at_every_bit_width(
    tmp_path: Path, small_digits: ImageSet, small_holdout: ImageSet
) -> None:
    changes = {"training": {"epochs": 4.0, "batch_size": 32, "learning_rate": 0.05}}
    path = run(tmp_path, small_digits, small_holdout, RunOptions(), **changes)
    network = load_network(path)
    images, labels = small_digits.images[:300], small_digits.labels[:300]
    for bits in network.bit_widths:
        accuracy = np.mean(predict(network, images, bits) == labels)
        # Four epochs: far from converged, far above the 10% of chance.
        assert accuracy > 0.25, (bits, accuracy)
    assert set(read_sidecar(path)["holdout_accuracy"]) == {"32", "8", "4", "2"}


def test_a_killed_training_leaves_whole_files_and_resumes(
    tmp_path: Path, small_digits: ImageSet, small_holdout: ImageSet
) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.training.small_run import small_config\n"
        "from training.data import load_images\n"
        "from training.loop import RunOptions, train\n"
        "images = load_images('digits', None, 'train', size=16)\n"
        "train(small_config(training={'epochs': 50.0, 'batch_size': 32}), images, images,\n"
        "      Path(sys.argv[1]), RunOptions(save_every=1, progress=False), dict)\n"
    )
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    state = folder / RESUME
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    assert not (folder / CHECKPOINT).exists()
    changes = {"training": {"epochs": 50.0, "batch_size": 32}}
    before = state.stat().st_mtime_ns
    # Which step was reached is chance; two more are enough to see that it continues.
    reached = saved(folder)["step"]
    options = RunOptions(resume=True, stop_after=reached + 2, save_every=1)
    run(folder, small_digits, small_holdout, options, **changes)
    assert saved(folder)["step"] == reached + 2
    assert state.stat().st_mtime_ns > before


def test_resuming_another_run_is_refused(
    tmp_path: Path, small_digits: ImageSet, small_holdout: ImageSet
) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        run(tmp_path, small_digits, small_holdout, RunOptions(resume=True))
    run(tmp_path, small_digits, small_holdout, RunOptions(stop_after=2))
    with pytest.raises(InputError, match="another config"):
        run(tmp_path, small_digits, small_holdout, RunOptions(resume=True), seed=4)


def test_a_run_of_an_earlier_version_is_continued_as_that_version_would(
    tmp_path: Path, small_digits: ImageSet, small_holdout: ImageSet
) -> None:
    defense = {"name": "qadtr", "inner_steps": 0, "central": 0.0}
    whole = run(tmp_path / "whole", small_digits, small_holdout, RunOptions(), defense=defense)
    parts = tmp_path / "parts"
    run(parts, small_digits, small_holdout, RunOptions(stop_after=4), defense=defense)
    # As a version wrote both files that did not have two of the settings and had two others.
    start = json.loads((parts / START).read_text())
    then = start["config"]["defense"]
    del then["inner_steps"], then["central"]
    then |= {"replays": 1, "inner_every": 1}
    (parts / START).write_bytes(json_bytes(start))
    identity = {"config": start["config"], "data": small_digits.digest}
    state = read_run_state(parts, saved(parts)["run"])
    replace(state, run=sha256_of_bytes(json_bytes(identity))).write(parts)

    found = read_start(parts)
    assert found is not None
    quiet = RunOptions(resume=True, progress=False)
    config = found.training_config(parts)
    resumed = train(config, small_digits, small_holdout, parts, quiet, dict)
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_holdout_of_other_classes_or_another_size_is_refused(
    tmp_path: Path, small_digits: ImageSet, small_holdout: ImageSet
) -> None:
    turned = replace(small_holdout, classes=small_holdout.classes[::-1])
    smaller = replace(small_holdout, images=small_holdout.images[:, :, 1:])
    for holdout, what in ((turned, "classes"), (smaller, "shape")):
        with pytest.raises(InputError, match=f"the hold-out's {what} is not"):
            run(tmp_path, small_digits, holdout, RunOptions())
    with pytest.raises(InputError, match="a hold-out has no file"):
        small_holdout.write(tmp_path)


def test_no_patch_of_an_earlier_training_stays_and_none_is_written_that_was_never_trained(
    tmp_path: Path, small_digits: ImageSet, small_holdout: ImageSet
) -> None:
    short = {"epochs": 0.1, "batch_size": 32, "learning_rate": 0.05}

    def patches(defense: dict[str, object]) -> list[str]:
        run(tmp_path, small_digits, small_holdout, RunOptions(), defense=defense, training=short)
        return sorted(path.name for path in (tmp_path / POOL).glob("*.npz"))

    qadtr = {"name": "qadtr", "sizes_px": [4], "personal_px": 4}
    assert patches(qadtr) == ["universal-square-4px-random.npz"]
    assert patches({**qadtr, "universal_share": 0.0}) == []
    assert patches(qadtr)
    assert patches({"name": "qat"}) == []


def test_bit_widths_that_no_step_had_are_named(
    tmp_path: Path,
    small_digits: ImageSet,
    small_holdout: ImageSet,
    caplog: pytest.LogCaptureFixture,
) -> None:
    short = {"epochs": 2 / (len(small_digits) // 32), "batch_size": 32}
    run(tmp_path, small_digits, small_holdout, RunOptions(), training=short)
    assert "never trained at 4, 2 bits" in caplog.text


def test_a_loss_that_is_no_number_names_the_step(
    tmp_path: Path,
    small_digits: ImageSet,
    small_holdout: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(spec: NetworkSpec, generator: torch.Generator, **given: Any) -> Network:
        network = build_network(spec, generator, **given)
        with torch.no_grad():
            last(network).bias.fill_(float("nan"))
        return network

    monkeypatch.setattr("training.starting.build_network", broken)
    with pytest.raises(TrainingDiverged, match="nan at step 0 of"):
        run(tmp_path, small_digits, small_holdout, RunOptions())
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_batch_larger_than_the_training_set_is_refused(
    tmp_path: Path, small_digits: ImageSet, small_holdout: ImageSet
) -> None:
    with pytest.raises(InputError, match="lower it"):
        run(
            tmp_path,
            small_digits,
            small_holdout,
            RunOptions(),
            training={"epochs": 1.0, "batch_size": 5000},
        )
