"""The figures of a measurement for the report: not needed by the gate, but by people."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import NothingToEvaluate
from ..core.outcomes import outcomes_record
from ..core.statistics import paired
from ..core.success import accuracy, attack_success
from ..core.text import one_line
from .evidence import classes_facts
from .measuring import UNSEEN, Measurement, asr_check_name, seen, success_of
from .suite import Suite


def clean_figures(measurement: Measurement, suite: Suite) -> dict[str, Any]:
    """Return the clean accuracy here and in the lab over the images that were run, and the flips.

    The SHA-256 of the logits is null where not all images were run.

    Raises:
        NothingToEvaluate: no image was run.
    """
    run = measurement.clean != UNSEEN
    labels, here, lab = suite.labels[run], measurement.clean[run], suite.lab_clean[run]
    return {
        "here": accuracy(here, labels),
        "lab": accuracy(lab, labels),
        "flips": int((here != lab).sum()),
        "classes": classes_facts(here, labels),
        "logits_sha256": measurement.clean_logits_sha256,
    }


def patch_figures(measurement: Measurement, suite: Suite, number: int) -> dict[str, Any]:
    """Return the figures of one patch, here and in the lab.

    ``asr`` is over the images that this engine classifies correctly without the patch;
    ``asr_common`` and the paired difference are over those that the lab's network has right too.
    Figures over no image are null.
    """
    patch = suite.patches[number]
    rows, which = seen(measurement, suite, number)
    labels, target = suite.labels[rows], patch.facts.target
    clean, patched = measurement.clean[rows], measurement.patched[number][which]
    lab_clean, lab_patched = suite.lab_clean[rows], patch.lab[which]
    here = lab = floor = common = None
    with contextlib.suppress(NothingToEvaluate):
        here = success_of(measurement, suite, number)
    with contextlib.suppress(NothingToEvaluate):
        lab = attack_success(lab_clean, lab_patched, labels, target).share
    with contextlib.suppress(NothingToEvaluate):
        noise = measurement.floor[number][which]
        floor = attack_success(clean, noise, labels, target).share
    with_lab = None
    with contextlib.suppress(NothingToEvaluate):
        both = lab_clean == labels
        common = attack_success(clean, patched, labels, target, also=both)
        on_lab = attack_success(lab_clean, lab_patched, labels, target, also=clean == labels)
        found = paired(on_lab.success[common.eligible], common.success[common.eligible])
        with_lab = {
            "difference": found.difference,
            "interval": [found.interval.low, found.interval.high],
            "n": found.n,
            "mcnemar_p": found.p,
        }
    nothing = np.zeros(len(rows), dtype=np.bool_)
    return {
        "name": patch.facts.name,
        "gated": patch.facts.gated,
        "attack": patch.facts.attack,
        "kind": patch.facts.kind,
        "target": target,
        "area_px": patch.patch_set.area_px,
        "area_share": patch.patch_set.area_share(*suite.images.shape[2:]),
        "images": len(rows),
        "distinct_images": int(suite.distinct[rows].sum()),
        "changed_px": {
            "median": float(np.median(measurement.changed[number][which])),
            "least": int(measurement.changed[number][which].min()),
            "unchanged_images": int(measurement.unchanged[number][which].sum()),
        }
        if len(rows)
        else None,
        "asr": None if here is None else here.share,
        "asr_common": None if common is None else common.share,
        "random_floor": floor,
        "robust_accuracy": accuracy(patched, labels) if len(rows) else None,
        "lab_asr": lab,
        "drift": None if here is None or lab is None else here.share["value"] - lab["value"],
        "paired_with_lab": with_lab,
        "flips": np.sort(patch.patch_set.image_indices[which][patched != lab_patched])[
            :1000
        ].tolist(),
        "flips_n": int((patched != lab_patched).sum()),
        "pasted_sha256": patch.facts.pasted_sha256,
        "outcomes": outcomes_record(
            patch.patch_set.image_indices[which],
            clean_correct=clean == labels,
            patched_correct=patched == labels,
            eligible=nothing if here is None else here.eligible,
            success=nothing if here is None else here.success,
        ),
    }


def changed_in_words(pixels: Mapping[str, Any] | None) -> str:
    """Return ``changed_px`` of a patch's figures in a few words."""
    if pixels is None:
        return "on no image"
    unchanged = pixels["unchanged_images"]
    return f"changes {pixels['median']:g} px (median), and too few on {unchanged} images"


def weaker_than_noise(patches: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the note on each gated patch that noise of its size beats, by its check's name.

    Args:
        patches: figures, from :func:`patch_figures`.
    """
    return {
        asr_check_name(patch["name"]): f"; noise of its size wins more often than "
        f"{one_line(patch['name'])}: {floor['value']:.1%}"
        for patch in patches
        if patch["gated"] and (floor := patch["random_floor"]) and (here := patch["asr"])
        if floor["value"] > here["value"]
    }
