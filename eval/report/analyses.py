"""The section of the paper's analyses: gradients, places, visibility, features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

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
from eval.report.names import names_from_records
from eval.report.words import images_words, model_order, percent

View = Callable[[Mapping[str, Any], str], Html]


def analyses_section(records: Iterable[Mapping[str, Any]]) -> Html:
    """Every analysis among the records under a heading each; nothing where there is none.

    Raises:
        InputError: a record lacks a field, or a map in it is damaged.
    """
    records = list(records)
    checks, names = attack_checks_from_records(records), names_from_records(records)
    parts = []
    for one in _KINDS:
        payloads = sorted(analyses_from_records(records, one.kind, one.part), key=_order)
        if payloads:
            shown = [
                join(_about(p, name), one.view({**p, MARKS: _marks(p, checks)}, name))
                for p in payloads
                for name in [names.of(p["model"])]
            ]
            parts.append(join(tag("h3", one.title), small(one.explained), shown))
    if not parts:
        return Html("")
    first = tag(
        "p",
        "The fake-quantized networks in torch, with straight-through gradients as they were "
        "trained. Means over images have 95% bootstrap intervals, shares have Wilson intervals.",
    )
    return join(first, parts)


class _Kind(NamedTuple):
    """How the records of one kind are shown."""

    title: str
    explained: str
    kind: str
    part: type
    view: View


_KINDS = (
    _Kind(
        "Where a patch wins",
        "Every patch is moved to each position of a grid; rows and columns are its upper and "
        "left edge in pixels. The images are those that are right without the patch, the same "
        "ones at every position.",
        patch_locations.KIND,
        patch_locations.PatchLocations,
        location_views,
    ),
    _Kind(
        "Where a network looks",
        "Mean drop of the true class's logit when a grey square covers a position (Zeiler and "
        "Fergus 2014), over the images that are right without the square. Cold: covering the "
        "position helps.",
        occlusion.KIND,
        occlusion.Occlusion,
        occlusion_views,
    ),
    _Kind(
        "Gradient alignment between bit-widths",
        "Cosine similarity between the pixel gradients of an image's cross-entropy at two "
        "bit-widths: 1 is the same direction, 0 is orthogonal. A small cosine means that an "
        "attack at one bit-width steps past the other, not that the other cannot be attacked. "
        "The same measure between two different images is given for comparison.",
        gradient_alignment.KIND,
        gradient_alignment.GradientAlignment,
        gradient_views,
    ),
    _Kind(
        "Gradient maps",
        "The gradient's magnitude at each pixel, for the first images, which are not "
        "chosen by outcome.",
        gradient_maps.KIND,
        gradient_maps.GradientMaps,
        gradient_map_views,
    ),
    _Kind(
        "Patch visibility",
        "The patch's share of each layer's activation energy, and of the saliency of the "
        "predicted logit. Above the grey lines the patch has more weight than its area.",
        patch_visibility.KIND,
        patch_visibility.PatchVisibility,
        visibility_views,
    ),
    _Kind(
        "Feature maps",
        "The first three convolutions, without and with the patch. The change is the change of "
        "the output, relative to its length.",
        feature_maps.KIND,
        feature_maps.FeatureMaps,
        feature_views,
    ),
)


def _marks(payload: Mapping[str, Any], checks: AttackChecks) -> dict[int, str]:
    """The mark next to an ASR at each bit-width."""
    model = payload["model"]
    return {b: checks.mark_at(model["checkpoint_sha256"], b) for b in model["bit_widths"]}


def _about(payload: Mapping[str, Any], name: str) -> Html:
    images, patch = payload["images"], payload["patch"]
    words = images_words(images, payload["analysed"])
    if patch is not None:
        height, width = patch["size_px"]
        words += (
            f"; {patch['name']}, {height}×{width} px, {percent(patch['area_share'])} of the image"
        )
    if images["split"] != "test":
        words += "; not final: settings may have been chosen on these images"
    return tag("p", tag("strong", name), f": {words}.", class_="small")


def _order(payload: Mapping[str, Any]) -> tuple[object, ...]:
    patch = payload["patch"]
    network, plain, defense, _ = model_order(payload["model"])
    return network, plain, defense, "" if patch is None else patch["name"]
