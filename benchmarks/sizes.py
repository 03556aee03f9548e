"""File sizes at each bit-width as shares of the stripped float ONNX file, and what each file runs.

    python -m benchmarks.sizes [--networks resnet8 resnet20 resnet56] [--json FILE]

The float file is ours: BatchNorm folded, no metadata, nothing but weights and nodes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.networks import warmed_network
from deploy.core.files import write_json
from deploy.core.records import provenance
from export.certificate import certify
from export.lowering import lower, lower_float
from export.qonnx_from_network import write_qonnx

BIT_WIDTHS = (32, 8, 5, 4, 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Export, weigh and certify; 1 if a file runs anything in float."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["resnet8", "resnet20", "resnet56"])
    parser.add_argument("--json", type=Path, help="also write the record there")
    arguments = parser.parse_args(argv)
    rows = [row for name in arguments.networks for row in _rows(name)]
    print("network   bits     bytes  of float  certificate")
    for row in rows:
        print(
            f"{row['network']:<8}  {row['bits']!s:>4}  {row['bytes']!s:>8}  "
            f"{row['share_of_float']:8.4f}  {row['certificate']}"
        )
    if arguments.json:
        root = Path(__file__).resolve().parents[1]
        record = {"benchmark": "sizes", "rows": rows, "provenance": provenance(repository=root)}
        write_json(arguments.json, record)
    return 0 if all(row["integer"] for row in rows) else 1


def _rows(name: str) -> list[dict[str, object]]:
    network = warmed_network(name, BIT_WIDTHS)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    rows: list[dict[str, object]] = []
    float_bytes = 0
    with tempfile.TemporaryDirectory() as folder:
        for bits in BIT_WIDTHS:
            qonnx = write_qonnx(network, bits, Path(folder) / f"qonnx-{bits}.onnx")
            path = Path(folder) / f"{name}-{bits}.onnx"
            size = (lower_float if bits == 32 else lower)(qonnx, path).size_bytes
            float_bytes = float_bytes or size
            certificate = None if bits == 32 else certify(path, images)
            rows.append(
                {
                    "network": name,
                    "bits": bits,
                    "bytes": size,
                    "share_of_float": size / float_bytes,
                    "integer": certificate is None or certificate.ok,
                    "certificate": "float" if certificate is None else certificate.summary(),
                }
            )
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
