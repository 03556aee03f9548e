"""The stage "patch": a run folder and its images to one patch set in a file.

A per-image attack is made on the images that it is tried on. A universal attack is made on the
training split and tried on other images. Which images of the split those are does not depend on the
attack or its seed, so all patches of one count share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deploy.device.files import json_bytes, sha256_of_bytes
from deploy.device.patch_set import PatchSet, write_patch_set
from eval.attacks import PatchAttack
from training.data.subset import chosen_indices
from training.run_folder import RunFolder

PATCHES = "patches"
TRIED_ON = "tried_on"
"""Key of the provenance: name, split and digest of the images that the set's indices count in."""


@dataclass(frozen=True, kw_only=True)
class PatchRunSettings:
    """What a patch run is told besides the attack's own settings.

    Attributes:
        split: of the images that the patch is tried on: "test" for final tables, "holdout" to
            choose settings.
        images: how many of them, drawn evenly over the split; None takes all.
        made_from: universal patches only: how many training images they are optimized on; None
            takes all.
        seed: of the attack.
        device: torch device of the source network.
    """

    split: str = "test"
    images: int | None = None
    made_from: int | None = None
    seed: int = 0
    device: str = "cpu"


def make_patches(
    source: RunFolder,
    attack: PatchAttack[Any],
    data: Path | None,
    settings: PatchRunSettings,
    provenance: Mapping[str, Any],
    out: Path | None = None,
) -> tuple[Path, PatchSet]:
    """Attack the source network and write what was found.

    An interrupted attack continues when it is started again with the same arguments.

    Args:
        source: the run of the source network.
        attack: with its settings.
        data: the data folder of the source's kind.
        settings: which images, and the seed.
        provenance: from ``deploy.device.records.provenance``; stands in the sidecar.
        out: the npz file; default ``SOURCE/patches/NAME-HASH.npz``, where HASH is of everything
            asked for, so that two attacks never share a file.

    Returns:
        The path of the npz file, and the patch set.

    Raises:
        InputError: more images are asked for than there are, or as the attack raises.
    """
    tried_on = source.images(data, settings.split)
    indices = chosen_indices(len(tried_on), settings.images)
    network = source.load_network().to(settings.device)
    generator = torch.Generator().manual_seed(settings.seed)
    about = {
        "network": source.network_name,
        "defense": source.defense,
        "checkpoint_sha256": source.checkpoint_sha256,
        "seed": source.seed,
    }
    facts = {"name": tried_on.name, "split": tried_on.split, "digest": tried_on.digest}
    asked = json_bytes([attack.name, attack.settings.as_record(), asdict(settings), facts])
    short = sha256_of_bytes(asked)[:8]
    folder = source.path / PATCHES if out is None else out.parent
    unfinished = folder / f".{attack.name}-{short}.unfinished.npz"
    if attack.kind == "universal":
        training = source.images(data, "train")
        own = chosen_indices(len(training), settings.made_from)
        made = attack.run(
            network,
            training.images[own],
            training.labels[own],
            generator,
            tried_on=indices,
            source=about,
            made_on="train",
            resume_from=unfinished,
        )
    else:
        made = attack.run(
            network,
            tried_on.images[indices],
            tried_on.labels[indices],
            generator,
            image_indices=indices,
            source=about,
            made_on=settings.split,
            resume_from=unfinished,
        )
    patch_set = replace(
        made, provenance={**made.provenance, TRIED_ON: facts, "run": dict(provenance)}
    )
    path = folder / f"{made.name}-{short}.npz" if out is None else out
    write_patch_set(path, patch_set)
    unfinished.unlink(missing_ok=True)
    return path, patch_set
