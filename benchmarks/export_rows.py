"""The tables of exported files from the records of ``benchmarks.export_table``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KIND, TARGET_KIND, BUILD_KIND = "export", "export-target", "engine-build"
"""Kinds of record: all-integer files, the targets with a budget, engines built without a GPU."""

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
TARGET_HEADER = (
    "network",
    "bits",
    "target",
    "bytes",
    "engine",
    "nodes integer / float",
    "largest difference from the file's reference",
    "its flips",
    "flips against fake quantization",
    "weights",
)
BUILD_HEADER = (
    "network",
    "bits",
    "convolutions",
    "products",
    "pools",
    "tensors int8 / float32",
    "bytes, ONNX → engine",
)

Payload = Mapping[str, Any]


def export_rows(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each network, weights and bit-width; records of :data:`KIND`, oldest first."""
    return [
        [
            *_network(p),
            p["target"],
            f"{p['nodes_integer']} / {p['nodes_float']}",
            f"{p['bytes']:,}",
            ", ".join(
                f"{p[f'{what}_different']:,} of {p[what]:,} {what}" for what in ("codes", "logits")
            ),
            f"{p['parity_images']:,}",
            _flips(p["flips"], p["flip_images"]),
            p["weights"],
        ]
        for p in _newest(records, "bytes")
    ]


def target_rows(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each network, weights, target, bit-width and engine; of :data:`TARGET_KIND`."""
    rows = []
    for p in _newest(records):
        for engine in p["engines"]:
            nodes = f"{p['nodes_integer']} / {p['nodes_float']}"
            own = engine["flips_of_reference"]
            rows.append(
                [
                    *_network(p),
                    p["target"],
                    f"{p['bytes']:,}",
                    engine["engine"],
                    nodes if engine["engine"].startswith("openvino") else "—",
                    f"{engine['largest_logit_difference'] / p['largest_logit']:.2%}",
                    "—" if own is None else f"{own:,} of {p['reference_images']:,}",
                    _flips(engine["flips"], p["flip_images"]),
                    p["weights"],
                ]
            )
    return rows


def build_rows(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each network and bit-width; records of :data:`BUILD_KIND`, oldest first."""
    return [
        [
            *_network(p),
            f"{p['kinds']['convolution']} int8",
            f"{p['kinds']['matrix product']} int8",
            f"{p['kinds']['pool']} int8" if p["kinds"]["pool"] else "none",
            f"{p['tensors'].get('int8', 0)} / {p['tensors'].get('float32', 0)}",
            f"{p['onnx_bytes']:,} → {p['engine_bytes']:,}",
        ]
        for p in _newest(records, "onnx_bytes")
    ]


def _newest(records: Sequence[Mapping[str, Any]], size: str | None = None) -> list[Payload]:
    """The last payload of each network, weights, target and bit-width: by input size, then by
    ``size`` of the network's largest file, then by name; the widest first."""
    newest: dict[tuple[Any, ...], Payload] = {}
    largest: dict[tuple[Any, ...], int] = {}
    for record in records:
        p = record["payload"]
        of = (p["network"], p.get("weights", ""), p.get("target", ""))
        newest[(p["input_px"], *of, -p["bits"])] = p
    for key, p in newest.items():
        largest[key[:4]] = max(largest.get(key[:4], 0), p[size] if size else 0)
    order = sorted(newest, key=lambda key: (key[0], largest[key[:4]], *key[1:]))
    return [newest[key] for key in order]


def _network(payload: Payload) -> list[str]:
    return [f"{payload['network']} ({payload['input_px']} px)", str(payload["bits"])]


def _flips(flips: int, images: int) -> str:
    return f"{flips:,} of {images:,} ({flips / images:.2%})"
