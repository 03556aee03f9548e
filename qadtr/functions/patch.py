"""`qadtr.make_patches`: adversarial patches made on one network, for any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.core.errors import UsageError
from deploy.core.patch_set import PatchSet
from eval.attacks import attack_from_settings
from eval.stages.patch import PatchRunSettings
from eval.stages.patch import make_patches as make_patches_of_run
from qadtr.functions.inputs import Run, opened
from qadtr.origin import provenance
from training.data import Images
from training.patch_sizes import in_pixels
from training.run_folder import RunFolder


def make_patches(
    source: Run,
    attack: str = "lavan",
    images: Images | None = None,
    *,
    size: int | str | None = None,
    settings: Mapping[str, Any] | None = None,
    count: int | None = None,
    split: str = "test",
    made_from: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    engine: str | None = None,
    beside: Sequence[Run] = (),
    out: Path | str | None = None,
) -> PatchSet:
    """Attack a network and keep the patches, for use on any other network.

    Args:
        source: the run whose network is attacked, or its folder.
        attack: "lavan" or "location" (a patch for each image), "gap" (one for all), "sparse-rs"
            (without gradients), or ``package.module:Class``, a subclass of
            ``eval.attacks.base.PatchAttack``.
        images: images that the patch is tried on; None takes the run's own.
        size: side in pixels, or a share of the image's area such as "5%"; None takes the
            attack's default.
        settings: settings of the attack: ``{"steps": 50, "target": 3, "bit_widths": [4]}``.
        count: number of images, drawn evenly; None takes all.
        split: split of the images; "holdout" to choose settings.
        made_from: universal patches: number of training images to optimize on; None takes all.
        seed: seed of the attack.
        device: torch device.
        engine: attack the exported model in this engine, without gradients, at one bit-width.
        beside: runs of other networks that the patch is also made against.
        out: NAME.npz; None: a file in the run's ``patches`` folder.

    Returns:
        uint8 patches, bool masks and int32 positions for ``image_indices`` of the split.

    Raises:
        InputError: an unknown attack or setting, a patch that does not fit, too many images.
        EngineUnavailable: the engine or device is not available on this machine.

    Example:
        >>> patches = qadtr.make_patches(
        ...     "runs/own", "lavan", [training_set, test_set], size=4, count=20,
        ...     settings={"steps": 3})
        >>> patches.patch.shape, patches.positions.shape
        ((20, 3, 4, 4), (20, 2))
    """
    run = opened(source, images)
    given = dict(settings or {})
    if size is not None:
        given["size_px"] = size
    asked = PatchRunSettings(
        split=split,
        images=count,
        made_from=made_from,
        seed=seed,
        device=device,
        engine=engine,
    )
    others = [opened(one) for one in beside]
    path = None if out is None else Path(out)
    return attacked(run, attack, images, given, asked, path, others)[1]


def attacked(
    run: RunFolder,
    attack: str,
    images: Images | None,
    given: Mapping[str, Any],
    settings: PatchRunSettings,
    out: Path | None,
    beside: Sequence[RunFolder],
) -> tuple[Path, PatchSet]:
    """:func:`make_patches` with the file's path; `qadtr patch` calls this too."""
    if run.adopted:  # there is no network, and one model
        settings = replace(settings, engine=settings.engine or "onnxruntime")
        given = {"bit_widths": run.bit_widths, **given}
    made = attack_from_settings(attack, in_pixels(given, run.spec.image_size))
    if made.kind != "universal" and settings.made_from is not None:
        raise UsageError(
            "--made-from (made_from) has no effect where each patch is made on its own image; "
            "leave it out"
        )
    about = provenance(seed=settings.seed, config=made.settings.as_record())
    return make_patches_of_run(run, made, images, settings, about, out, beside=beside)
