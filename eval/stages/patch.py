"""The stage "patch": a run folder and its images to one patch set in a file.

A per-image attack is made on the images that it is tried on. A universal attack is made on the
training split and tried on other images. Which images of the split those are does not depend on the
attack or its seed, so all patches of one count share them.

The source is one network; or several at once, where a substitute stands for the target; or, for an
attack that needs no gradient, an exported model in its engine. Supplied patches, somebody else's
files, are placed on the images of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.core.patch_origin import PatchSource
from deploy.core.patch_set import PatchSet, write_patch_set
from deploy.core.strict_json import json_bytes
from eval.attacks.base import PatchAttack
from eval.attacks.ensemble import Ensemble
from eval.attacks.supplied.placing import PlacingSettings, placed_patch_sets
from eval.attacks.supplied.reading import read_supplied
from eval.measure.subject import subjects_of
from training.data import Images, ImageSet
from training.data.subset import chosen_indices
from training.devices import torch_device
from training.prediction import SwitchableNetwork
from training.run_folder import RunFolder
from training.validated import AtLeast0, AtLeast1, validated


@validated()
class PatchRunSettings:
    """Settings of a patch run other than the attack's own settings.

    Attributes:
        split: of the images that the patch is tried on: "test" for final tables, "holdout" to
            choose settings.
        images: how many of them, drawn evenly over the split; None takes all.
        made_from: universal patches only: how many training images they are optimized on; None
            takes all.
        seed: of the attack.
        device: torch device of the source network.
        engine: a name of ``deploy.engine.ENGINES``: the source is the exported model there, not
            the network; for attacks that need no gradient, at one bit-width.
        threads: of that engine.
    """

    split: str = "test"
    images: AtLeast1 | None = None
    made_from: AtLeast1 | None = None
    seed: AtLeast0 = 0
    device: str = "cpu"
    engine: str | None = None
    threads: AtLeast1 = 1


def make_patches(
    source: RunFolder,
    attack: PatchAttack[Any],
    data: Images | None,
    settings: PatchRunSettings,
    provenance: Mapping[str, Any],
    out: Path | None = None,
    *,
    beside: Sequence[RunFolder] = (),
) -> tuple[Path, PatchSet]:
    """Attack the source network and write what was found.

    An interrupted attack continues when it is started again with the same arguments.

    Args:
        out: the npz file; default ``SOURCE/patches/NAME-HASH.npz``, where HASH is of everything
            asked for, so that two attacks never share a file.
        beside: runs of other networks, of the same classes and image size: the patch is made
            against the mean of all their logits (``eval.attacks.ensemble``).

    Returns:
        The path of the npz file, and the patch set.

    Raises:
        InputError: more images are asked for than there are, networks of different data, a model
            that is not exported at the one bit-width, or as the attack raises.
        EngineUnavailable: the engine, or the torch device, is not here.
    """
    tried_on = source.images(data, settings.split)
    indices = chosen_indices(len(tried_on), settings.images)
    generator = torch.Generator().manual_seed(settings.seed)
    about = _about(source, beside, settings)
    asked = [attack.name, attack.settings.as_record(), asdict(settings), tried_on.about, about]
    short = sha256_of_bytes(json_bytes(asked))[:8]
    folder = source.patches if out is None else out.parent
    unfinished = folder / f".{attack.name}-{short}.unfinished.npz"
    chosen, own = tried_on, indices
    asked_more: dict[str, Any] = {"image_indices": indices}
    if attack.kind == "universal":
        chosen = source.images(data, "train")
        own = chosen_indices(len(chosen), settings.made_from)
        asked_more = {"tried_on": indices}
    with _opened(source, attack, beside, settings) as network:
        made = attack.run(
            network,
            chosen.images[own],
            chosen.labels[own],
            generator,
            made_on=chosen.split,
            source=about,
            resume_from=unfinished,
            **asked_more,
        )
    patch_set = _tried_on(made, tried_on, provenance)
    path = folder / f"{made.name}-{short}.npz" if out is None else out
    write_patch_set(path, patch_set)
    unfinished.unlink(missing_ok=True)
    return path, patch_set


def _tried_on(made: PatchSet, images: ImageSet, provenance: Mapping[str, Any]) -> PatchSet:
    """The patch set with what its sidecar says of the images and of the run."""
    more = dict(made.origin.more)
    if made.target is not None:
        more["target_class"] = images.classes[made.target]
    origin = replace(made.origin, tried_on=images.about, run=provenance, more=more)
    return replace(made, origin=origin)


def _about(
    source: RunFolder, beside: Sequence[RunFolder], settings: PatchRunSettings
) -> PatchSource:
    runs = [source, *beside]
    about = source.about()
    if beside:
        # No single checkpoint made it: the members tell.
        about = PatchSource(
            network=" + ".join(run.network_name for run in runs),
            defense=" + ".join(run.defense for run in runs),
            checkpoint_sha256=None,
            seed=None,
            members=[dict(run.about()) for run in runs],
        )
    if settings.engine is not None:
        about["engine"] = settings.engine
    return about


@contextmanager
def _opened(
    source: RunFolder,
    attack: PatchAttack[Any],
    beside: Sequence[RunFolder],
    settings: PatchRunSettings,
) -> Iterator[SwitchableNetwork]:
    if settings.engine is None:
        for run in beside:
            if run.classes != source.classes:
                raise InputError(
                    f"{run.path} has other classes than {source.path}, so no patch can "
                    "be made on both; give runs for the same data"
                )
        device = torch_device(settings.device)
        networks = [run.load_network().to(device) for run in (source, *beside)]
        yield Ensemble(networks) if beside else networks[0]
        return
    widths = attack.settings.bit_widths
    if beside or len(widths) != 1:
        raise InputError(
            "an attack on an engine takes one source at one bit-width; give one --bits "
            "and no --with"
        )
    (subject,) = subjects_of(source, settings.engine, widths)
    with subject.as_network(threads=settings.threads) as network:
        yield network


def supply_patches(
    run: RunFolder,
    file: Path,
    data: Images | None,
    placing: PlacingSettings,
    settings: PatchRunSettings,
    provenance: Mapping[str, Any],
    folder: Path | None = None,
) -> list[tuple[Path, PatchSet]]:
    """Place the patches of a file on the images of a run and write a patch set for each.

    Args:
        run: whose images they are placed on; its network is not run.
        file: a PNG or npz, see ``eval.attacks.supplied.reading``.
        settings: split, number of images and seed; the rest does not matter here.
        folder: of the patch sets; default ``RUN/patches``.

    Returns:
        Paths of the npz files with their patch sets, in the order of the file.

    Raises:
        InputError: a damaged file, a target that is not a class of the run, a patch that does not
            fit, or more images than there are.
    """
    supplied = read_supplied(file)
    images = run.images(data, settings.split)
    own, given = images.images.shape[1], supplied.patches.shape[1]
    if own != given:
        raise InputError(
            f"{file} holds patches of {given} channel{'s' if given > 1 else ''}, but the images "
            f"of {run.path} have {own}; give patches with as many channels"
        )
    made = placed_patch_sets(
        supplied,
        placing,
        chosen_indices(len(images), settings.images),
        (images.images.shape[2], images.images.shape[3]),
        classes=len(run.classes),
        seed=settings.seed,
    )
    asked = [supplied.sha256, placing.as_record(), settings.images, settings.seed, images.about]
    short = sha256_of_bytes(json_bytes(asked))[:8]
    written = []
    for one in made:
        path = (folder or run.patches) / f"{one.name}-{short}.npz"
        placed = _tried_on(one, images, provenance)
        write_patch_set(path, placed)
        written.append((path, placed))
    return written
