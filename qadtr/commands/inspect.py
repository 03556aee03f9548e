"""`qadtr inspect`: which operators and types ONNX Runtime really runs for a file, or QNN would."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from deploy.core.text import shape_in_words
from qadtr.arguments import count
from qadtr.commands import shared

HELP = "list the kernels that ONNX Runtime really runs for an ONNX file, layer by layer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and shapes where the file leaves them open."""
    parser.add_argument("model", type=Path, metavar="FILE.onnx", help="any ONNX file")
    parser.add_argument(
        "--size",
        type=count,
        default=32,
        metavar="N",
        help="length of dimensions that the file leaves open, such as the side of its images "
        "(default: 32)",
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="INPUT=N,N,…",
        dest="shapes",
        help="shape of an input (may be given several times, once for each input)",
    )
    parser.add_argument(
        "--provider",
        default="cpu",
        choices=("cpu", "qnn"),
        help="cpu: run the file and list what ran; qnn: list what Qualcomm's HTP would take, "
        "without running the file and without a Snapdragon (default: cpu)",
    )
    parser.add_argument(
        "--threads", type=count, default=1, help="threads of the engine (default: 1)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the certificate (certificate-2.json) instead of the table",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the layers and the verdict; 2 when something runs, or would run, in float."""
    from deploy.core.table import Table
    from export.certificate import certify

    if arguments.provider == "qnn":
        return _print_qnn(arguments)
    certificate = certify(
        arguments.model,
        shapes=dict(_shape(word) for word in arguments.shapes),
        open_size=arguments.size,
        threads=arguments.threads,
        isolated=True,
    )
    if arguments.json:
        print(json.dumps(certificate.to_json(), indent=2, ensure_ascii=False))
        return 0 if certificate.ok else 2
    for one in (*certificate.inputs, *certificate.outputs):
        dims = shape_in_words(one.shape)
        word = "output" if one in certificate.outputs else "input"
        print(f"{word:<6} {one.name} {one.type} {dims}")
    rows = [
        [
            "" if layer.integer else "!",
            f"{layer.time_share:.1%}",
            layer.provider.removesuffix("ExecutionProvider"),
            layer.operator,
            f"{', '.join(layer.input_types)} → {', '.join(layer.output_types)}",
            layer.layer,
        ]
        for layer in certificate.layers
    ]
    columns = ("", "time", "in", "operator", "types", "layer")
    print(Table(columns=columns, rows=rows, align="lrl").text())
    print(certificate.summary())
    return 0 if certificate.ok else 2


def _print_qnn(arguments: argparse.Namespace) -> int:
    from deploy.core.table import Table
    from export.qnn_check import qnn_assignment

    idle = {"threads": 1}
    shared.refuse_without_effect(
        arguments, idle, "with --provider qnn, which does not run the file"
    )
    found = qnn_assignment(
        arguments.model,
        shapes=dict(_shape(word) for word in arguments.shapes),
        open_size=arguments.size,
    )
    if arguments.json:
        print(json.dumps(asdict(found), indent=2, ensure_ascii=False))
        return 0 if found.ok else 2
    rows = [
        ["!" if one.is_product and not one.integer else "", one.operator, one.type, one.name]
        for one in found.operators
    ]
    rows += [["!", one.operator, "on the CPU", one.name] for one in found.refused]
    print(Table(columns=("", "operator", "type", "node"), rows=rows, align="l").text())
    for reason in dict.fromkeys(one.reason for one in found.refused):
        nodes = [one.name for one in found.refused if one.reason == reason]
        print(f"on the CPU: {', '.join(nodes)}: {reason}")
    print(found.summary())
    return 0 if found.ok else 2


def _shape(word: str) -> tuple[str, list[int]]:
    from deploy.core.errors import UsageError

    name, equals, numbers = word.rpartition("=")
    try:
        shape = [int(number) for number in numbers.split(",")] if numbers else []
    except ValueError:
        shape = [-1]
    if not equals or not name or min(shape, default=0) < 0:
        raise UsageError(f"--shape expects INPUT=N,N,…, such as images=1,3,32,32; got {word!r}")
    return name, shape
