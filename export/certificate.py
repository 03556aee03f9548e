"""The certificate: which operators, types and providers actually ran, layer by layer.

Everything in it comes from the engine after it has loaded and run the file: its own saved
optimized graph for the wiring, its own profile for kernels, types, providers and times. The
exported file is not used, because an engine may run a different graph.

The JSON form is ``export/schemas/certificate-2.json``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.errors import InputError, QadtrError
from deploy.core.files import sha256_of, write_atomic
from deploy.core.onnx_operators import read_onnx
from deploy.core.operator_kinds import KINDS
from deploy.core.scratch import Scratch
from deploy.device.onnxruntime_engine import onnxruntime_version
from deploy.device.onnxruntime_profile import ENGINE, ProfiledRun, profile_onnx
from export.canonical.operators import QUANT_DOMAINS, QUANTIZERS
from export.engine_graph import node_names_made_unique, read_engine_graph
from export.float_reasons import bare
from export.graph import graph_inputs, input_dims, type_name
from export.layer_runs import (
    Failure,
    LayerRun,
    failures_of,
    float_requantizations,
    layer_runs,
    requantizations,
)
from export.reading import read_model, refusing_malformed
from export.sample import feeds_of_images, noise_for

FORMAT_VERSION = 2
RUNS = 3
"""Profiled runs of the whole sample; the fastest run of each node counts."""

_PLURALS = {
    "convolution": "convolutions",
    "matrix product": "matrix products",
    "addition": "additions",
    "pool": "pools",
    "gate": "gates",
    "function": "functions",
}


class CertificateError(QadtrError):
    """The engine does not run the file in integers."""


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """An input or output of the file; ``type`` is ONNX's name of the element type, such as
    ``uint8``. A dimension that the file leaves open is None."""

    name: str
    type: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The result of :func:`certify`.

    Attributes:
        model: the file's name; ``model_sha256`` is of its bytes.
        engine: such as ``onnxruntime-cpu``.
        fed: the shape of each input in the profiled runs, by name.
        layers: in the order of the engine's graph.
        requantizations: layers that only change the scale: ``QLinearAdd`` with a constant and
            ``QLinearConcat`` of one input.
        float_requantizations: DequantizeLinear → QuantizeLinear pairs, as ``layer → layer``; each
            has one float tensor, which is allowed.
        failures: empty when everything is integer.
    """

    model: str
    model_sha256: str
    engine: str
    engine_version: str
    threads: int
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    fed: Mapping[str, tuple[int, ...]]
    layers: tuple[LayerRun, ...]
    requantizations: tuple[str, ...]
    float_requantizations: tuple[str, ...]
    failures: tuple[Failure, ...]

    @property
    def ok(self) -> bool:
        """Whether everything between images and logits ran in integers."""
        return not self.failures

    def required(self) -> Certificate:
        """Return this, or raise CertificateError with the layers that are not integer, and why."""
        if not self.ok:
            raise CertificateError(f"{self.model} is {self.summary()}")
        return self

    def counts(self) -> dict[str, dict[str, int]]:
        """Return ``{kind: {"integer": n, "float": n}}``."""
        ran = Counter((layer.kind, layer.integer) for layer in self.layers)
        return {kind: {"integer": ran[kind, True], "float": ran[kind, False]} for kind in KINDS}

    @property
    def integer_time_share(self) -> float | None:
        """The share of the time in kernels, 0…1, that went to integer ones; None if the engine
        reports no times."""
        if any(layer.time_share is None for layer in self.layers):
            return None
        return sum(layer.time_share or 0.0 for layer in self.layers if layer.integer)

    def in_float(self) -> str:
        """Return what is not integer, such as ``1 pool, 2 gates, Softmax, Resize ×2``: by kind, or
        by operator if it has no kind."""
        named = {failure.layer for failure in self.failures}
        without_kind = (one for one in self.layers if one.kind not in KINDS and one.layer in named)
        others = Counter(bare(one.operator) for one in without_kind)
        parts = [_words(kind, n["float"]) for kind, n in self.counts().items() if n["float"]]
        parts += [name if n == 1 else f"{name} ×{n}" for name, n in others.most_common()]
        return ", ".join(parts) or "; ".join(failure.reason for failure in self.failures)

    def summary(self) -> str:
        """Return text such as ``9 of 9 convolutions integer, …`` and one line per failure."""
        parts = []
        for kind, count in self.counts().items():
            total = count["integer"] + count["float"]
            if not total and kind in ("gate", "function"):
                continue  # few networks have any
            parts.append(f"{count['integer']} of {_words(kind, total)} integer")
        parts.append(f"{len(self.requantizations)} requantizations in integers")
        share = self.integer_time_share
        if share is not None:
            parts.append(
                f"{len(self.float_requantizations)} by DequantizeLinear → QuantizeLinear pairs"
            )
            parts.append(f"{share:.0%} of the kernel time in integers")
        lines = [f"{'integer' if self.ok else 'NOT INTEGER'}: {', '.join(parts)}"]
        lines += [f"  {failure.layer}: {failure.reason}" for failure in self.failures]
        rules = Counter(rule for failure in self.failures for rule in failure.rules)
        if rules:
            counted = ", ".join(f"{rule} ×{count}" for rule, count in rules.most_common())
            lines.append(f"rules that stopped integers: {counted}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with a format version and the counts."""
        derived = {"format_version": FORMAT_VERSION, "ok": self.ok, "counts": self.counts()}
        plain: dict[str, Any] = json.loads(json.dumps({**derived, **asdict(self)}))
        return plain


def _words(kind: str, count: int) -> str:
    return f"{count} {kind if count == 1 else _PLURALS[kind]}"


def certify(
    model: Path | str,
    sample: NDArray[np.uint8] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    open_size: int = 32,
    threads: int = 1,
    optimize: bool = True,
    isolated: bool = False,
) -> Certificate:
    """Run any ONNX file on ONNX Runtime's CPU provider and return the certificate of what ran.

    Args:
        model: the ONNX file.
        sample: a few images, uint8 N×3×H×W, for a classifier of images, which are converted to its
            input type; their content does not matter. None: noise of the file's own inputs.
        shapes: of inputs by name, if there is no sample and the file leaves them open.
        open_size: length of an open dimension that ``shapes`` does not name.
        threads: of the engine.
        optimize: False to run the file's nodes unchanged.
        isolated: run the engine in a separate process, for a file that is not trusted.

    Raises:
        InputError: the file is damaged, cannot be fed, or is refused by the engine.
        EngineUnavailable: onnxruntime is not installed.
    """
    path = Path(model)
    read = read_model(path)
    refuse_qonnx(read, path)
    feeds = (
        noise_for(read, open_size=open_size, shapes=shapes)
        if sample is None
        else feeds_of_images(read, sample)
    )
    inputs = tuple(map(_facts, graph_inputs(read)))
    with Scratch() as folder:
        loaded = path
        # The profile identifies nodes by name; the engine reads data from its saved graph's folder.
        with refusing_malformed(path):
            outside = read_onnx(path.read_bytes()).outside
        if node_names_made_unique(read) or outside:
            loaded = folder / path.name
            write_atomic(loaded, bytes_of(read, path))
        optimized, profile = folder / "optimized.onnx", folder / "profile.json"
        profile_onnx(
            loaded,
            feeds,
            settings=ProfiledRun(threads=threads, runs=RUNS, optimize=optimize),
            profile_to=profile,
            optimized_to=optimized,
            isolated=isolated,
        )
        file_nodes = {node.name for node in read.graph.node}
        graph = read_engine_graph(optimized, profile, file_nodes=file_nodes)
    layers = layer_runs(graph)
    return Certificate(
        model=path.name,
        model_sha256=sha256_of(path),
        engine=ENGINE,
        engine_version=onnxruntime_version(),
        threads=threads,
        inputs=inputs,
        outputs=tuple(map(_facts, read.graph.output)),
        fed={name: array.shape for name, array in feeds.items()},
        layers=layers,
        requantizations=requantizations(graph),
        float_requantizations=tuple(
            f"{a.layer} → {b.layer}" for a, b in float_requantizations(graph)
        ),
        failures=tuple(failures_of(graph, layers, {one.name: one.type for one in inputs})),
    )


def refuse_qonnx(model: onnx.ModelProto, path: Path) -> None:
    """Raise InputError if a node is one of QONNX's quantizers, which no engine runs."""
    quant = next(
        (
            node
            for node in model.graph.node
            if node.op_type in QUANTIZERS and node.domain in QUANT_DOMAINS
        ),
        None,
    )
    if quant is not None:
        raise InputError(
            f"{path} is a QONNX file, and no engine runs its {quant.op_type} nodes "
            f"({quant.domain}); make a file that runs with: qadtr lower {path} --out FILE"
        )


def _facts(value: onnx.ValueInfoProto) -> TensorFacts:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return TensorFacts(name=value.name, type=kind or "unknown", shape=())
    element = type_name(value.type.tensor_type.elem_type)
    return TensorFacts(name=value.name, type=element, shape=input_dims(value))


def bytes_of(model: onnx.ModelProto, path: Path) -> bytes:
    """The bytes of a model that was read from ``path`` and changed; else InputError."""
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's EncodeError has no public base
        raise InputError(f"{path} cannot be copied to give its nodes names: {error}") from error
