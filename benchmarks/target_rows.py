"""The table of the targets with a budget from the records of ``benchmarks.target_table``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.export_rows import newest_payloads

KIND = "export-target"

HEADER = (
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

ABOUT = (
    "Made by `python -m benchmarks.target_table`, on the same images and networks. Each engine is "
    "held to the numpy reference of the same file (`qonnx`: to the fake-quantized network); "
    "differences are of logits, as a share of the largest. Nodes are those of the graph that "
    "OpenVINO compiled; it puts sums into the convolution before them. The `tensorrt` files ran in "
    "ONNX Runtime, which runs them in float: what TensorRT makes of them is in "
    "[engines](engines.md), and no GPU was here."
)


def target_rows(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each network, weights, bit-width, target and engine: the newest record of each.

    Args:
        records: of :data:`KIND`, oldest first.
    """
    newest = newest_payloads(records)
    return [
        _row(newest[key], engine)
        for key in sorted(newest, key=lambda key: (key[0], *map(str, key[1:4]), key[4]))
        for engine in newest[key]["engines"]
    ]


def _row(payload: Mapping[str, Any], engine: Mapping[str, Any]) -> list[str]:
    share = engine["largest_logit_difference"] / payload["largest_logit"]
    openvino = engine["engine"].startswith("openvino")
    nodes = f"{payload['nodes_integer']} / {payload['nodes_float']}" if openvino else "—"
    reference, images = payload["reference_images"], payload["flip_images"]
    own = engine["flips_of_reference"]
    return [
        f"{payload['network']} ({payload['input_px']} px)",
        str(payload["bits"]),
        payload["target"],
        f"{payload['bytes']:,}",
        engine["engine"],
        nodes,
        f"{share:.2%}",
        "—" if own is None else f"{own:,} of {reference:,}",
        f"{engine['flips']:,} of {images:,} ({engine['flips'] / images:.2%})",
        payload["weights"],
    ]
