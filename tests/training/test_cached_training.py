"""Training from a cache on disk ends with the bytes of training from memory."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deploy.core.records import read_records
from deploy.core.strict_json import json_bytes
from qadtr.__main__ import main
from training.batches import Batches
from training.checkpoint import CHECKPOINT, RESUME
from training.config import load_config
from training.data import load_images
from training.loop import RunOptions, train
from training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
CONFIG = """
name = "cached"
seed = 5
[data]
kind = "folder"
size = 16
augment = "crop-flip"
[network]
name = "resnet8"
bit_widths = [32, 4]
[training]
epochs = 2
batch_size = 16
[defense]
name = "qadtr"
sizes_px = [4]
personal_px = 4
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.toml, pictures/ and memory/, the run that was trained from memory."""
    generator = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("cached")
    (folder / "config.toml").write_text(CONFIG)
    for split, name in itertools.product(("train", "test"), ("cat", "dog")):
        images = folder / "pictures" / split / name
        images.mkdir(parents=True)
        for i in range(45 if split == "train" else 6):
            pixels = generator.integers(0, 256, (18, 24, 3), np.uint8)
            Image.fromarray(pixels).save(images / f"{i}.png")
    assert main(words(folder, "memory")) == 0
    return folder


def words(place: Path, run: str, *more: str) -> list[str]:
    data = ["--data", str(place / "pictures"), "--out", str(place / run)]
    return ["train", str(place / "config.toml"), *data, *more]


def weights(place: Path, run: str) -> bytes:
    return (place / run / CHECKPOINT).read_bytes()


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_weights_are_the_same_from_disk(place: Path) -> None:
    cache = ["--cache", str(place / "cache")]
    assert main(words(place, "disk", *cache)) == 0
    assert weights(place, "disk") == weights(place, "memory")
    assert len(list((place / "cache").glob("*.npy"))) == 2
    # From the cache that is there now.
    assert main(words(place, "disk", *cache, "--overwrite")) == 0
    assert weights(place, "disk") == weights(place, "memory")


def test_a_run_begun_in_memory_is_resumed_from_disk_to_the_same_bytes(place: Path) -> None:
    images, holdout = (
        load_images("folder", place / "pictures", split, size=16) for split in ("train", "holdout")
    )
    options = RunOptions(stop_after=7, progress=False)
    train(load_config(place / "config.toml"), images, holdout, place / "broken", options, dict)
    assert (place / "broken" / RESUME).exists()
    assert not (place / "broken" / CHECKPOINT).exists()
    assert main(words(place, "broken", "--resume", "--cache", str(place / "other"))) == 0
    assert weights(place, "broken") == weights(place, "memory")


def test_a_run_folder_reads_its_images_from_the_cache_it_is_opened_with(place: Path) -> None:
    held, mapped = (
        RunFolder.open(place / "memory", cache).images(place / "pictures", "holdout")
        for cache in (None, place / "of-the-run")
    )
    assert isinstance(mapped.images.base, np.memmap)
    assert mapped.digest == held.digest
    np.testing.assert_array_equal(mapped.images, held.images)


def test_a_matrix_is_the_same_from_the_cache(place: Path) -> None:
    plan = place / "plan.toml"
    plan.write_text(
        f"""
        images = 12
        made_from = 12
        [[source]]
        run = "{place / "memory"}"
        bits = [32]
        [[attack]]
        name = "gap"
        size_px = 4
        steps = 2
        [[target]]
        run = "{place / "memory"}"
        engine = ["torch"]
        """
    )
    payloads = []
    for out, more in (("held", []), ("mapped", ["--cache", str(place / "of-the-matrix")])):
        data = ["--data", str(place / "pictures"), "--out", str(place / out)]
        assert main(["matrix", str(plan), *data, *more]) == 0
        records = read_records(place / out / "records", "evaluation")
        payloads.append(sorted(json_bytes(record["payload"]) for record in records))
    assert len(payloads[0]) == 2
    assert payloads[0] == payloads[1]
    # The training images that a universal patch is made from, and the test images.
    assert len(list((place / "of-the-matrix").glob("*.npy"))) == 2


def test_batches_are_read_not_held(place: Path) -> None:
    config = load_config(place / "config.toml")
    memory, disk = (
        load_images("folder", place / "pictures", "train", size=16, cache=cache)
        for cache in (None, place / "batches")
    )
    ours, theirs = (Batches(images, config, torch.device("cpu")) for images in (disk, memory))
    for step in (0, 3, 9):
        one, other = (batches.at(step, lambda pixels, _: pixels) for batches in (ours, theirs))
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)


@pytest.mark.slow
def test_two_ranks_share_a_cache_that_one_of_them_makes(place: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def trained(run: str, *more: str) -> list[str]:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "qadtr", *words(place, run, *more)],
                cwd=ROOT,
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        told = [process.communicate(timeout=300)[1] for process in started]
        assert [process.returncode for process in started] == [0, 0], told
        return told

    trained("two-memory")
    told = trained("two-disk", "--cache", str(place / "shared"))
    for split in ("train", "holdout"):
        made = [f"pictures-{split}-16px.npy: decoded" in lines for lines in told]
        assert sorted(made) == [False, True], told
    assert weights(place, "two-disk") == weights(place, "two-memory")
