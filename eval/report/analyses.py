"""The section of the paper's analyses: gradients, places, visibility, features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.core.html import Html, join, tag
from eval.measure.analyses import (
    feature_maps,
    gradient_alignment,
    gradient_maps,
    occlusion,
    patch_locations,
    patch_visibility,
)
from eval.measure.analyses.analysis_record import analyses_from_records
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records
from eval.report.analysis_views import (
    MARKS,
    feature_views,
    gradient_map_views,
    gradient_views,
    location_views,
    occlusion_views,
    visibility_views,
)
from eval.report.document import small
from eval.report.words import images_words, model_order, name_of, percent

View = Callable[[Mapping[str, Any], str], Html]


def analyses_section(records: Iterable[Mapping[str, Any]]) -> Html:
    """Every analysis among the records under a heading each; nothing where there is none.

    Raises:
        InputError: a record lacks a field, or a map in it is damaged.
    """
    records = list(records)
    checks = attack_checks_from_records(records)
    parts = []
    for one in _KINDS:
        payloads = sorted(analyses_from_records(records, one.kind, one.part), key=_order)
        if payloads:
            shown = [
                join(_about(p), one.view({**p, MARKS: _marks(p, checks)}, name_of(p["model"])))
                for p in payloads
            ]
            parts.append(join(tag("h3", one.title), small(one.explained), shown))
    if not parts:
        return Html("")
    first = tag(
        "p",
        "The fake-quantized networks in torch, with straight-through gradients as they were "
        "trained. Means over images have 95% bootstrap intervals, shares Wilson's.",
    )
    return join(first, parts)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How the records of one kind are shown."""

    title: str
    explained: str
    kind: str
    part: type
    view: View


_KINDS = (
    _Kind(
        title="Where a patch wins",
        explained=(
            "Every patch moved to each place of a grid; rows and columns are its upper and left "
            "edge in pixels. Images that are right without it, the same ones at every place."
        ),
        kind=patch_locations.KIND,
        part=patch_locations.PatchLocations,
        view=location_views,
    ),
    _Kind(
        title="Where a network looks",
        explained=(
            "Mean drop of the true class's logit when a grey square covers a place (Zeiler and "
            "Fergus 2014), over the images that are right without it. Cold: covering it helps."
        ),
        kind=occlusion.KIND,
        part=occlusion.Occlusion,
        view=occlusion_views,
    ),
    _Kind(
        title="Gradient alignment between bit-widths",
        explained=(
            "How alike the gradients of an image's cross-entropy at its pixels are at two "
            "bit-widths: 1 is the same direction, 0 orthogonal. A small cosine says that an attack "
            "at one bit-width steps past the other, not that the other cannot be attacked. Beside "
            "it the same measure between two different images."
        ),
        kind=gradient_alignment.KIND,
        part=gradient_alignment.GradientAlignment,
        view=gradient_views,
    ),
    _Kind(
        title="Gradient maps",
        explained=(
            "The gradient's magnitude at each pixel: the first images, not chosen by outcome."
        ),
        kind=gradient_maps.KIND,
        part=gradient_maps.GradientMaps,
        view=gradient_map_views,
    ),
    _Kind(
        title="Patch visibility",
        explained=(
            "Share of a layer's activation energy that belongs to the patch, and of the saliency "
            "of the predicted logit. Above the grey lines, the patch weighs more than its area."
        ),
        kind=patch_visibility.KIND,
        part=patch_visibility.PatchVisibility,
        view=visibility_views,
    ),
    _Kind(
        title="Feature maps",
        explained=(
            "The first three convolutions, without and with the patch. The change is that of the "
            "output, in units of its length."
        ),
        kind=feature_maps.KIND,
        part=feature_maps.FeatureMaps,
        view=feature_views,
    ),
)


def _marks(payload: Mapping[str, Any], checks: AttackChecks) -> dict[int, str]:
    """What stands beside an ASR at each bit-width."""
    model = payload["model"]
    return {b: checks.mark_at(model["checkpoint_sha256"], b) for b in model["bit_widths"]}


def _about(payload: Mapping[str, Any]) -> Html:
    images, patch = payload["images"], payload["patch"]
    words = images_words(images, payload["analysed"])
    if patch is not None:
        height, width = patch["size_px"]
        words += (
            f"; {patch['name']}, {height}×{width} px, {percent(patch['area_share'])} of the image"
        )
    if images["split"] != "test":
        words += "; not final: settings may have been chosen on these images"
    return tag("p", tag("strong", name_of(payload["model"])), f": {words}.", class_="small")


def _order(payload: Mapping[str, Any]) -> tuple[object, ...]:
    patch = payload["patch"]
    network, plain, defense, _ = model_order(payload["model"])
    return network, plain, defense, "" if patch is None else patch["name"]
