"""The tables of exported files from the records of ``benchmarks.export_table``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deploy.core.table import Table

KIND, LITERT_KIND, TARGET_KIND = "export", "export-litert", "export-target"
BUILD_KIND = "engine-build"
"""Kinds of record: all-integer files, LiteRT's, the targets with a budget, engines built without a
GPU."""

Payload = Mapping[str, Any]
Columns = Mapping[str, Callable[[Payload], str]]
"""What a cell says of a payload, by the heading of its column."""


def _nodes(p: Payload) -> str:
    return f"{p['nodes_integer']} / {p['nodes_float']}"


def _flips(p: Payload) -> str:
    return f"{p['flips']:,} of {p['flip_images']:,} ({p['flips'] / p['flip_images']:.2%})"


def _different(p: Payload) -> str:
    both = ("codes", "logits")
    return ", ".join(f"{p[f'{what}_different']:,} of {p[what]:,} {what}" for what in both)


def _flips_of_reference(p: Payload) -> str:
    own = p["flips_of_reference"]
    return "—" if own is None else f"{own:,} of {p['reference_images']:,}"


def _on_arm64(p: Payload) -> str:
    if "arm64_values" not in p:
        return "not run"
    return f"{p['arm64_different']:,} of {p['arm64_values']:,} codes and logits"


_NETWORK: Columns = {
    "network": lambda p: f"{p['network']} ({p['input_px']} px)",
    "bits": lambda p: str(p["bits"]),
}
_FILES: Columns = {
    **_NETWORK,
    "target": lambda p: p["target"],
    "nodes integer / float": _nodes,
    "bytes": lambda p: f"{p['bytes']:,}",
    "differ from the reference": _different,
    "on images": lambda p: f"{p['parity_images']:,}",
    "flips against fake quantization": _flips,
    "weights": lambda p: p["weights"],
}
_LITERT: Columns = {
    **_NETWORK,
    "operators in XNNPACK / LiteRT": lambda p: (
        f"{p['operators_xnnpack']} / {p['operators_litert']}"
    ),
    "bytes (all-integer ONNX)": lambda p: f"{p['bytes']:,} ({p['onnx_bytes']:,})",
    "differ from the references": _different,
    "on images": lambda p: f"{p['parity_images']:,}",
    "flips against fake quantization": _flips,
    "tflite-micro: logits that differ": lambda p: (
        f"{p['micro_logits_different']:,} on {p['fixed_point_images']:,} images"
    ),
    "its flips against XNNPACK": lambda p: (
        f"{p['micro_flips']:,} of {p['micro_reference_images']:,}"
    ),
    "accuracy: tflite-micro, XNNPACK": lambda p: (
        f"{p['micro_accuracy']:.1%}, {p['accuracy_of_these']:.1%}"
    ),
    "RAM, bytes": lambda p: f"{p['ram_bytes']:,}",
    "on emulated arm64, differ": _on_arm64,
    "speed over ONNX Runtime, batch 1 / 16": lambda p: " / ".join(
        f"{p['over_onnxruntime'][size]['median']:.2f}" for size in ("1", "16")
    ),
    "weights": lambda p: p["weights"],
}
_TARGETS: Columns = {
    **_NETWORK,
    "target": lambda p: p["target"],
    "bytes": lambda p: f"{p['bytes']:,}",
    "engine": lambda p: p["engine"],
    "nodes integer / float": lambda p: _nodes(p) if p["engine"].startswith("openvino") else "—",
    "largest difference from the file's reference": lambda p: (
        f"{p['largest_logit_difference'] / p['largest_logit']:.2%}"
    ),
    "its flips": _flips_of_reference,
    "flips against fake quantization": _flips,
    "weights": lambda p: p["weights"],
}
_BUILDS: Columns = {
    **_NETWORK,
    "convolutions": lambda p: f"{p['kinds']['convolution']} int8",
    "products": lambda p: f"{p['kinds']['matrix product']} int8",
    "pools": lambda p: f"{p['kinds']['pool']} int8" if p["kinds"]["pool"] else "none",
    "tensors int8 / float32": lambda p: " / ".join(
        str(p["tensors"].get(kind, 0)) for kind in ("int8", "float32")
    ),
    "bytes, ONNX → engine": lambda p: f"{p['onnx_bytes']:,} → {p['engine_bytes']:,}",
}


def files_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each network, weights and bit-width; records of :data:`KIND`, oldest first."""
    return table_of(_FILES, _newest(records, "bytes"))


def litert_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each network, weights and bit-width; records of :data:`LITERT_KIND`."""
    return table_of(_LITERT, _newest(records, "bytes"))


def targets_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each network, weights, target, bit-width and engine; of :data:`TARGET_KIND`."""
    rows = [{**p, **engine} for p in _newest(records) for engine in p["engines"]]
    return table_of(_TARGETS, rows)


def builds_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each network and bit-width; records of :data:`BUILD_KIND`, oldest first."""
    return table_of(_BUILDS, _newest(records, "onnx_bytes"))


def table_of(columns: Columns, payloads: Sequence[Payload]) -> Table:
    """A row for each payload."""
    rows = [[cell(payload) for cell in columns.values()] for payload in payloads]
    return Table(columns=tuple(columns), rows=rows)


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
