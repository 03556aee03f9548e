"""Quantized files of others through `qadtr lower`: each is taken, or refused by layer and operator.

    python -m benchmarks.foreign_files --files GROUP=DIR [GROUP=DIR …]
        [--json results/benchmarks/foreign-files.json]

Each .onnx file of each folder is lowered to integers, run in ONNX Runtime, held to an independent
run of the file itself layer by layer, and certified. A file does not say what it wants of its
image: the forms of :data:`FORMS` are tried in their order.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.public_networks import MEAN, STD
from benchmarks.records import parser_of, report
from deploy.core.errors import QadtrError, UsageError
from deploy.core.scratch import Scratch
from export.canonical import ImageForm
from export.lower_file import LowerSettings, lower_file

FORMS: Mapping[str, ImageForm] = {
    "bytes": ImageForm(),
    "0…1": ImageForm(mean=(0.0,), std=(1.0,)),
    "mean and std of ImageNet": ImageForm(mean=MEAN, std=STD),
}
LONGEST_REASON = 300


def of_file(path: Path, group: str) -> dict[str, Any]:
    """A row for one file: what was proved of it, or why the last form was refused."""
    start, reasons = time.perf_counter(), {}
    for name, form in FORMS.items():
        with Scratch() as folder:
            try:
                found = lower_file(path, folder / "integer.onnx", form, LowerSettings(count=4))
            except QadtrError as error:
                reasons[name] = str(error).replace(f"{path}: ", "")
                if not _of_the_image(reasons[name]):
                    break
                continue
            source, certificate = found.lowered.source, found.certificate
            assert source is not None
            assert certificate is not None
            return {
                "file": path.name,
                "from": group,
                "taken": "yes" if certificate.ok else "no",
                "image": name,
                "nodes_integer": sum(layer.integer for layer in certificate.layers),
                "nodes_float": sum(not layer.integer for layer in certificate.layers),
                "codes": sum(layer.codes for layer in source.layers),
                "codes_different": sum(layer.different for layer in source.layers),
                "bytes": found.lowered.size_bytes,
                "seconds": round(time.perf_counter() - start, 1),
                "refused": "; ".join(one.reason for one in certificate.failures[:2]),
            }
    return {
        "file": path.name,
        "from": group,
        "taken": "no",
        "refused": _short(next(reversed(reasons.values()))),
    }


def _of_the_image(reason: str) -> bool:
    """Whether another form of the image may help."""
    return "image codes" in reason and "--mean" in reason


def _short(reason: str) -> str:
    """The first of the layers that are refused."""
    first = reason.splitlines()[0]
    if len(first) <= LONGEST_REASON:
        return first
    return f"{first[:LONGEST_REASON].rpartition(' ')[0]} …"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write the record where a path is given."""
    parser = parser_of("foreign_files", __doc__)
    parser.add_argument("--files", nargs="+", required=True, metavar="GROUP=DIR")
    arguments = parser.parse_args(argv)
    rows = []
    for word in arguments.files:
        group, equals, folder = word.partition("=")
        paths = sorted(Path(folder).glob("*.onnx"))
        if not equals or not paths:
            raise UsageError(f"--files expects GROUP=DIR with .onnx files in DIR, got {word}")
        for path in paths:
            rows.append(of_file(path, group))
            print(rows[-1], file=sys.stderr, flush=True)
    taken = sum(row["taken"] == "yes" for row in rows)
    report(
        {"benchmark": "foreign-files", "files": len(rows), "taken": taken, "rows": rows},
        arguments.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
