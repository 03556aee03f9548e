"""A network under pixel attacks, bit-width by bit-width, as records.

The attack is made on the fake-quantized network at one bit-width, and judged on the bytes of what
it made: by the network itself and, where asked, by the exported model in its engine.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.files import sha256_of, sha256_of_bytes
from deploy.core.npz import read_npz, write_npz
from deploy.core.records import write_record
from deploy.core.strict_json import json_bytes
from deploy.core.success import accuracy, attack_success
from eval.attacks.pixel.library import LIBRARY, perturbed
from eval.attacks.pixel.pixel_settings import PixelSettings
from eval.measure.evaluation_record import images_facts
from eval.measure.pixel_record import KIND, PixelModel, PixelRecord
from eval.measure.subject import TORCH, subjects_of
from training.data import Images
from training.data.subset import chosen_indices
from training.devices import torch_device
from training.prediction import SwitchableNetwork
from training.progress import Progress
from training.record_types import payloads_by_key
from training.run_folder import RunFolder
from training.validated import AtLeast1, BitWidths, validated


@validated()
class PixelRunSettings:
    """Settings of a run other than those of the attack.

    Attributes:
        bit_widths: to attack and measure; None takes all of the network.
        made_at: the one bit-width whose gradient every attack follows; None: each its own.
        images: how many of the split; None takes all.
        split: "test" for final tables, "holdout" to choose settings.
        engine: also ask the exported models in this engine.
        device: of the network.
    """

    bit_widths: BitWidths | None = None
    made_at: AtLeast1 | None = None
    images: AtLeast1 | None = None
    split: str = "test"
    engine: str | None = None
    device: str = "cpu"


def attack_pixels(
    run: RunFolder,
    attack: PixelSettings,
    data: Images | None,
    settings: PixelRunSettings,
    provenance: Mapping[str, Any],
) -> list[PixelRecord]:
    """Attack a run's network; one record for each bit-width and engine, in its ``records`` folder.

    Records that exist are not made again. An interrupted attack continues after its last batch.

    Raises:
        InputError: a bit-width that the network lacks, a model that is not exported, more images
            than there are, or the library is not installed.
        NothingToEvaluate: the network classifies none of the images correctly.
        EngineUnavailable: the engine is not here.
    """
    images = run.images(data, settings.split)
    indices = chosen_indices(len(images), settings.images)
    chosen, labels = images.images[indices], images.labels[indices]
    network = run.load_network().to(torch_device(settings.device))
    known = payloads_by_key(run.records, KIND, PixelRecord)
    records: list[PixelRecord] = []
    for bits in run.chosen_bit_widths(settings.bit_widths):
        made_at = settings.made_at or bits
        facts = [run.checkpoint_sha256, attack.as_record(), made_at]
        facts += [images.digest, images.split, len(indices)]
        made = sha256_of_bytes(json_bytes(facts))
        unfinished = run.path / f".pixel-{made[:16]}.unfinished.npz"
        for name in [TORCH] if settings.engine is None else [TORCH, settings.engine]:
            (subject,) = subjects_of(run, name, [bits])
            model = PixelModel(
                network=subject.network,
                defense=subject.defense,
                bit_width=subject.bit_width,
                checkpoint_sha256=subject.checkpoint_sha256,
                engine=subject.engine,
                file_sha256=None if subject.file is None else sha256_of(subject.file),
            )
            key = sha256_of_bytes(json_bytes([made, dict(model)]))
            if key in known:
                records.append(known[key])
                continue
            count = len(images.classes)
            found = _made(unfinished, network, made_at, chosen, labels, attack, count)
            with subject.open(network=network) as predictor:
                clean, attacked = predictor.predict(chosen), predictor.predict(found)
            change = found.astype(np.float64) - chosen.astype(np.float64)
            in_ball = attack.attack != "cw"
            record = PixelRecord(
                key=key,
                model=model,
                attack=attack.attack,
                norm="Linf" if in_ball else "L2",
                epsilon=attack.epsilon if in_ball else None,
                settings=attack.as_record(),
                library=f"{LIBRARY} {importlib.metadata.version(LIBRARY)}",
                made_at_bit_width=made_at,
                images=images_facts(images),
                attacked=len(chosen),
                clean_accuracy=accuracy(clean, labels),
                robust_accuracy=accuracy(attacked, labels),
                asr=attack_success(clean, attacked, labels).share,
                largest_change=int(np.abs(change).max()),
                mean_l2=float(np.sqrt((change**2).sum(axis=(1, 2, 3))).mean()),
            )
            write_record(run.records, KIND, record, provenance)
            records.append(record)
        unfinished.unlink(missing_ok=True)
    return records


def attacked_so_far(path: Path, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What an earlier call finished of ``images``, uint8 N×C×H×W: the first k attacked; k is 0
    where no file is.

    Raises:
        InputError: the file is damaged, or of other images.
    """
    if not path.exists():
        return np.zeros((0, *images.shape[1:]), dtype=np.uint8)
    arrays = read_npz(path)
    done = arrays.get("images")
    if (
        done is None
        or done.dtype != np.uint8
        or done.ndim != images.ndim
        or done.shape[1:] != images.shape[1:]
        or len(done) > len(images)
    ):
        what = "a resume file of a pixel attack on these images"
        raise InputError(f"{path} is not {what}; remove it")
    found: NDArray[np.uint8] = done
    return found


def _made(
    path: Path,
    network: SwitchableNetwork,
    bits: int,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    attack: PixelSettings,
    classes: int,
) -> NDArray[np.uint8]:
    """The attacked images, uint8 N×3×H×W; what an earlier call finished is at ``path``."""
    done = attacked_so_far(path, images)
    with Progress(f"{attack.attack} at {bits} bits", len(images)) as bar:
        bar.advance(len(done))
        while len(done) < len(images):
            some = slice(len(done), len(done) + attack.batch_size)
            found = perturbed(
                network,
                bits,
                images[some],
                labels[some],
                attack,
                classes=classes,
                # A seed of its own for each batch: a resumed attack draws what a whole one does.
                seed=attack.seed * 1_000_003 + some.start,
            )
            done = np.concatenate([done, found])
            write_npz(path, {"images": done})
            bar.advance(len(found))
    return done
