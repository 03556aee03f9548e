"""What `qadtr eval` costs beside the engine that it must run anyway, as a ratio.

    python -m benchmarks.evaluation [--images 5000] [--patches 5] [--rounds 7] [--json FILE]

In each round one engine classifies the same number of images twice: bare, from prepared batches,
and inside ``eval.measure.evaluation.evaluate_model`` without the drift (clean, patched and
noise-patched images of every patch set; pasting, counting, hashing and the records included).
ResNet-20, 4-bit codes, one thread; half of the patch sets are universal, half per image. Times are
the process's CPU seconds, which other work on the machine does not stretch as it does the clock's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.exported import noise_patch_sets, warmed_model
from benchmarks.ratios import ratio
from deploy.core.files import sha256_of, write_json
from deploy.core.records import provenance
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from eval.measure.evaluation import evaluate_model
from eval.measure.evaluation_record import ModelFacts
from training.data import ImageSet
from training.data.image_set import image_set

BITS = 4
NETWORK = "resnet20"
BATCH = 64
ROOT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--patches", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the record there")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = warmed_model(NETWORK, BITS, folder)
        bare, whole = _measure(model, folder, arguments.images, arguments.patches, arguments.rounds)
    found = ratio(whole, bare)
    record = {
        "benchmark": "evaluation",
        "network": NETWORK,
        "bits": BITS,
        "threads": 1,
        "images": arguments.images,
        "patches": arguments.patches,
        "rounds": arguments.rounds,
        "whole_over_engine": found,
    }
    print(
        f"{NETWORK}, {BITS}-bit codes, {arguments.images} images × {arguments.patches} patch sets: "
        f"{found['median']:.3f} ({found['lower_quartile']:.3f}–{found['upper_quartile']:.3f}) "
        "times the bare engine"
    )
    if arguments.json:
        write_json(arguments.json, {**record, "provenance": provenance(repository=ROOT)})
    return 0


def _measure(
    model: Path, folder: Path, count: int, patches: int, rounds: int
) -> tuple[list[float], list[float]]:
    """CPU seconds of each round: the bare engine's, the evaluation's."""
    images, sets = _images(count), noise_patch_sets(count, patches, np.random.default_rng(1))
    facts = ModelFacts(
        network=NETWORK,
        defense="none",
        bit_width=BITS,
        checkpoint_sha256=None,
        file=model.name,
        file_sha256=sha256_of(model),
        file_size_bytes=model.stat().st_size,
        engine="onnxruntime-cpu",
        engine_version="",
        certificate=None,
    )
    bare: list[float] = []
    whole: list[float] = []
    with OnnxRuntimeEngine(model) as engine:
        batches = [images.images[start : start + BATCH] for start in range(0, count, BATCH)]
        # The labels are the model's own classes, so that every image counts.
        images = image_set(
            images.images,
            engine.predict(images.images, BATCH),
            images.classes,
            name=images.name,
            split=images.split,
        )
        for number in range(rounds):
            start = time.process_time()
            for _ in range(2 * patches + 1):
                for batch in batches:
                    engine.run(batch)
            bare.append(time.process_time() - start)
            start = time.process_time()
            evaluate_model(
                engine,
                images,
                sets,
                model=facts,
                records=folder / f"records-{number}",
                provenance={},
                batch_size=BATCH,
                progress=False,
            )
            whole.append(time.process_time() - start)
    return bare, whole


def _images(count: int) -> ImageSet:
    draw = np.random.default_rng(0)
    return image_set(
        draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8),
        draw.integers(0, 10, count),
        tuple("abcdefghij"),
        name="random bytes",
        split="test",
    )


if __name__ == "__main__":
    raise SystemExit(main())
