"""The table of exported files from the records of ``benchmarks.export_table``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KIND = "export"

HEADER = (
    "network",
    "bits",
    "target",
    "nodes integer / float",
    "bytes",
    "differ from the reference",
    "on images",
    "flips against fake quantization",
    "weights",
)


def export_rows(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each network, weights, target and bit-width: the newest record of it.

    Args:
        records: of :data:`KIND`, oldest first.
    """
    newest = newest_payloads(records)
    # By input size, then by the size of the network's widest file.
    size = {key[:4]: 0 for key in newest}
    for key, payload in newest.items():
        size[key[:4]] = max(size[key[:4]], payload["bytes"])
    order = sorted(newest, key=lambda key: (key[0], size[key[:4]], *map(str, key[1:4]), key[4]))
    return [_row(newest[key]) for key in order]


def newest_payloads(
    records: Sequence[Mapping[str, Any]],
) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """The last payload of each input size, network, weights, target and (negated) bit-width."""
    newest: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in records:
        payload = record["payload"]
        key = (payload["input_px"], payload["network"], payload["weights"], payload["target"])
        newest[(*key, -payload["bits"])] = payload
    return newest


def _row(payload: Mapping[str, Any]) -> list[str]:
    flips, images = payload["flips"], payload["flip_images"]
    return [
        f"{payload['network']} ({payload['input_px']} px)",
        str(payload["bits"]),
        payload["target"],
        f"{payload['nodes_integer']} / {payload['nodes_float']}",
        f"{payload['bytes']:,}",
        _differ(payload),
        f"{payload['parity_images']:,}",
        f"{flips:,} of {images:,} ({flips / images:.2%})",
        payload["weights"],
    ]


def _differ(payload: Mapping[str, Any]) -> str:
    codes = f"{payload['codes_different']:,} of {payload['codes']:,} codes"
    return f"{codes}, {payload['logits_different']:,} of {payload['logits']:,} logits"
