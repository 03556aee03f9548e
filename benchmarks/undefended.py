"""Per-image LaVAN patches made in float, tried on the 2-bit model in ONNX Runtime: the rows.

The records are those of `qadtr eval` in ``results/undefended-cifar10-resnet8``; the patches were
made by

    qadtr patch RUN --data DIR --attack lavan --size 6 --placement centre --images 2000 --seed 1

with RUN the network's own run (its 32-bit mode) and that of the float network trained separately.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

GROUP = "undefended-cifar10-resnet8"
"""Folder of results/ that is shown so."""

PAPER_ASR = 0.731
"""Reported by the paper: LaVAN made on the float ResNet-56, tried on the undefended 2-bit one."""

_ORDER = ("centre", "random")


def undefended_rows(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown paragraphs: what was done, the table, and how it stands to the paper's figure."""
    payloads = [record["payload"] for record in records if record["kind"] == "evaluation"]
    by_patch: dict[str, dict[int, Mapping[str, Any]]] = {}
    for payload in payloads:
        of_patch = by_patch.setdefault(payload["patch"]["sha256"], {})
        of_patch[payload["model"]["bit_width"]] = payload
    rows = sorted(by_patch.values(), key=_place)
    widths = sorted({bits for row in rows for bits in row}, reverse=True)
    head = ["made on", "patch", "place", *(_words(bits) for bits in widths), "noise at 2 bits"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        first = next(iter(row.values()))
        patch = first["patch"]
        side = patch["size_px"][0]
        lines.append(
            [
                _source(first),
                f"{side}×{side} px, {100 * patch['area_share']:.1f}%",
                "centre" if patch["placement"] == "centre" else "one random place an image",
                *(_rate(row[bits]["asr"]) if bits in row else "–" for bits in widths),
                _rate(row[2]["floor"]["asr"]),
            ]
        )
    settings = rows[0][2]["patch"]["settings"]
    said = (
        "An undefended ResNet-8 (plain shared-weight QAT) against LaVAN patches, one for each "
        f"image ({settings['steps']} steps, untargeted), made in float. ASR in ONNX Runtime's "
        "integer kernels (32 bits: the float file), of the images that the model has right "
        "without the patch, with Wilson's 95% interval."
    )
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return [said, table, _beside_the_paper(rows)]


def _beside_the_paper(rows: Sequence[Mapping[int, Mapping[str, Any]]]) -> str:
    own, other = (
        max(
            (row[2]["asr"] for row in rows if _is_own(row[2]) is own and _side(row[2]) == 6),
            key=lambda share: share["value"],
        )
        for own in (True, False)
    )
    return (
        f"The paper reports {100 * PAPER_ASR:.0f}% for a 6×6 px LaVAN patch from float on the "
        f"2-bit ResNet-56. Here the same size gives at most {_rate(own)} from the network's own "
        f"32-bit mode and {_rate(other)} from a float network trained separately. That is lower, "
        "and it is no repetition: the network is ResNet-8 after 20 epochs on a CPU, on the JPEG "
        "copy of "
        "CIFAR-10; its bit-widths share one set of weights, its residual stream has 8 bits, and "
        "the ASR counts only images that this model has right. Which weights the paper's float "
        "patch was made on, how many steps it took and which images its ASR counts is not known "
        "here, so which of these makes the difference has not been found out."
    )


def _place(row: Mapping[int, Mapping[str, Any]]) -> tuple[bool, int, int]:
    first = next(iter(row.values()))
    return (not _is_own(first), _side(first), _ORDER.index(first["patch"]["placement"]))


def _side(payload: Mapping[str, Any]) -> int:
    return int(payload["patch"]["size_px"][0])


def _is_own(payload: Mapping[str, Any]) -> bool:
    source = payload["patch"]["source"]["checkpoint_sha256"]
    return bool(source == payload["model"]["checkpoint_sha256"])


def _source(payload: Mapping[str, Any]) -> str:
    if _is_own(payload):
        return "its own 32-bit mode (white-box at 32 bits)"
    return f"another float network, seed {payload['patch']['source']['seed']}"


def _words(bits: int) -> str:
    return "float" if bits == 32 else f"{bits} bits"


def _rate(share: Mapping[str, Any]) -> str:
    interval = f"{100 * share['low']:.1f}–{100 * share['high']:.1f}"
    return f"{100 * share['value']:.1f}% ({interval}), n {share['n']:,}"
