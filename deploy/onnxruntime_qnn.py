"""What of a file ONNX Runtime's QNN provider would take for Qualcomm's HTP, and why not the rest.

The answer is the provider's own. Its package for x86-64 brings the library that compiles graphs for
the HTP (the matrix unit of Snapdragon processors), so no such processor is needed: the session is
opened, nothing is run. The provider writes which operators it made of which nodes, and the reason
of each refusal, into a trace (its option ``enable_framework_op_trace``); ONNX Runtime reports which
nodes each provider got.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from .core.errors import EngineUnavailable, InputError
from .core.files import read_bytes
from .core.scratch import Scratch
from .core.text import one_line
from .device.onnxruntime_engine import _onnxruntime, common_options
from .device.own_process import answer, run_in_process
from .onnxruntime_plugin import load_plugin

PROVIDER = "QNNExecutionProvider"
PACKAGE, DISTRIBUTION, EXTRA = "onnxruntime_qnn", "onnxruntime-qnn", "qnn"

_TRACE = "qnn_op_trace.json"
_ANSWER = "answer.json"

PRODUCTS = ("Conv", "ConvTranspose", "FusedConv", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul")
"""ONNX's convolutions and products, which must be in integers."""

_IN_INTEGERS = "QLinear"
_LAID_OUT = re.compile(r"_token_\d+$")
"""What ONNX Runtime adds to the name of a node that it laid out anew."""

_GROUP = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, kw_only=True)
class QnnOperator:
    """What one node, or one with the Q/DQ nodes around it, becomes on the HTP.

    Attributes:
        name: of the node.
        operator: QNN's, such as ``Conv2d``; several are joined by " + ".
        of: ONNX's operators of the nodes that it was made of, in the provider's order.
        integer: whether it reads and gives codes: made of an operator *with* the
            DequantizeLinear before and the QuantizeLinear after it, or of a QLinear operator.
    """

    name: str
    operator: str
    of: tuple[str, ...]
    integer: bool

    @property
    def type(self) -> str:
        """What it computes in, in words."""
        if _GROUP.issuperset(self.of):
            return "conversion"
        return "integers" if self.integer else "float16"

    @property
    def is_product(self) -> bool:
        """Whether it is a convolution or a matrix product."""
        return any(one in PRODUCTS for one in self.of)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A node that is left to the CPU: its name, ONNX's operator, the provider's reason."""

    name: str
    operator: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class QnnAssignment:
    """What the provider makes of a file.

    Attributes:
        version: of the package onnxruntime-qnn.
        taken: number of nodes that it takes.
        operators: what they become.
        refused: the nodes that it does not take.
    """

    version: str
    taken: int
    operators: tuple[QnnOperator, ...]
    refused: tuple[Refused, ...]

    @property
    def products(self) -> int:
        """How many convolutions and products the file has, taken or not."""
        return sum(one.is_product for one in self.operators) + sum(
            one.operator in (*PRODUCTS, "QGemm") for one in self.refused
        )

    @property
    def integer_products(self) -> int:
        """How many of those the HTP would compute in integers."""
        return sum(one.is_product and one.integer for one in self.operators)

    @property
    def ok(self) -> bool:
        """Whether no node is left to the CPU and every convolution and product is in integers."""
        return not self.refused and self.integer_products == self.products

    def summary(self) -> str:
        """The verdict in a line."""
        return (
            f"{self.integer_products} of {self.products} convolutions and products in integers "
            f"on the HTP; {self.taken} of {self.taken + len(self.refused)} nodes taken, "
            f"{len(self.refused)} left to the CPU (as onnxruntime-qnn {self.version} assigns "
            "them; nothing was run, and never on a Snapdragon)"
        )


def ask_qnn(model: Path, *, name: str) -> QnnAssignment:
    """Open a file in the QNN provider, in a process of its own, and say what it takes.

    Args:
        model: the ``.onnx`` file, with every dimension fixed: the provider takes no open one.
        name: of the file, for errors.

    Raises:
        EngineUnavailable: onnxruntime or onnxruntime-qnn is not installed, or does not load.
        InputError: the file is missing, or is refused as a whole; the provider crashed.

    Example:
        >>> ask_qnn(Path("qcdq-8.onnx"), name="qcdq-8.onnx").taken  # doctest: +SKIP
        61
    """
    with Scratch() as folder:
        run_in_process(__spec__.name, {"model": str(model.resolve()), "name": name}, folder, name)
        found = json.loads((folder / _ANSWER).read_text(encoding="utf-8"))
    return QnnAssignment(
        version=found["version"],
        taken=found["taken"],
        operators=tuple(
            QnnOperator(**{**one, "of": tuple(one["of"])}) for one in found["operators"]
        ),
        refused=tuple(Refused(**one) for one in found["refused"]),
    )


def _ask(job: Mapping[str, Any], folder: Path) -> None:
    ort = _onnxruntime()
    needs = "Linux or Windows on x86-64 or ARM64"
    package = load_plugin(
        ort, PROVIDER, PACKAGE, name="the check for QNN", extra=EXTRA, needs=needs
    )
    devices = [one for one in ort.get_ep_devices() if one.ep_name == PROVIDER]
    if not devices:
        raise EngineUnavailable(
            f"{DISTRIBUTION} is installed but offers no device; it needs {needs}"
        )
    devices.sort(key=lambda one: one.device.type != ort.OrtHardwareDeviceType.NPU)
    options = common_options(ort, 1, exact=False)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    traced = {"enable_framework_op_trace": "1", "framework_op_trace_dir": str(folder)}
    htp = {"backend_path": package.get_qnn_htp_path()}
    options.add_provider_for_devices(devices[:1], htp | traced)
    model = Path(job["model"])
    read_bytes(model)  # a missing file is our error, not the engine's
    try:
        session = ort.InferenceSession(str(model), options)
    # onnxruntime's exceptions have no public base class below Exception.
    except Exception as error:
        raise InputError(
            f"ONNX Runtime {ort.__version__} does not open {job['name']} with QNN: "
            f"{one_line(str(error))}"
        ) from error
    taken, refused = {}, []
    for part in session.get_provider_graph_assignment_info():
        nodes = {one.name: one.op_type for one in part.get_nodes()}
        if part.ep_name == PROVIDER:
            taken.update(nodes)
        else:
            refused += list(nodes.items())
    trace = _trace(folder / _TRACE)
    reasons = {
        # It says the same twice, the second time with the node's name.
        one["node_name"]: one_line(one["reason"]).split(f".{one['op_type']} node `")[0]
        for one in trace["unsupported_nodes"]
    }
    operators: dict[str, QnnOperator] = {}
    for part in trace["subgraph_traces"]:
        for mapping in part["op_mappings"]:
            key, one = _operator(mapping, taken)
            before = operators.get(key)
            joined = one.operator if before is None else f"{before.operator} + {one.operator}"
            operators[key] = replace(one, operator=joined)
    found = {
        "version": metadata.version(DISTRIBUTION),
        "taken": len(taken),
        "operators": [asdict(one) for one in operators.values()],
        "refused": [
            asdict(Refused(name=name, operator=operator, reason=reasons.get(name, "not said")))
            for name, operator in refused
        ],
    }
    (folder / _ANSWER).write_text(json.dumps(found), encoding="utf-8")


def _trace(path: Path) -> Any:
    """What the provider wrote; without a node for it, nothing is."""
    if not path.is_file():
        return {"unsupported_nodes": [], "subgraph_traces": []}
    return json.loads(read_bytes(path))


def _operator(mapping: Mapping[str, Any], taken: Mapping[str, str]) -> tuple[str, QnnOperator]:
    """The name, in the graph that is split up, of the node that an operator computes; and it."""
    names = [one["name"] for one in mapping["sources"] if one["type"] == "OP"]
    of = tuple(taken.get(name, "") for name in names)
    main = next(
        (name for name, one in zip(names, of, strict=True) if one not in _GROUP),
        names[0] if names else mapping["dst_name"],
    )
    return main, QnnOperator(
        name=_LAID_OUT.sub("", main),
        operator=mapping["dst_qnn_op_type"],
        of=of,
        integer=set(of) >= _GROUP or any(one.startswith(_IN_INTEGERS) for one in of),
    )


if __name__ == "__main__":
    sys.exit(answer(Path(sys.argv[1]), _ask))
