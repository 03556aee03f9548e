"""The certificate: which operators, types and providers really ran, layer by layer.

Everything in it comes from the engine after it has loaded and run the file: its own saved
optimized graph for the wiring, its own profile for kernels, types, providers and times. The
exported file is not asked, because an engine may run quite another graph.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.device.errors import InputError, QadtrError
from deploy.device.files import sha256_of, write_atomic
from deploy.device.images import check_images
from deploy.device.onnxruntime_engine import PROVIDERS, OnnxRuntimeEngine
from deploy.device.operator_kinds import KIND_OF, KINDS
from export.engine_graph import EngineGraph, RanNode, read_engine_graph
from export.float_reasons import why_computed_again, why_float
from export.image_interface import ADAPTER, with_image_interface
from export.parity_probe import run_batch
from export.reading import read_model

FORMAT_VERSION = 1

_PLURALS = {
    "convolution": "convolutions",
    "matrix product": "matrix products",
    "addition": "additions",
    "pool": "pools",
}
_INTEGERS = {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16, 32, 64)
} | {"bool"}  # fmt: skip


class CertificateError(QadtrError):
    """The engine does not run the file in integers."""


@dataclass(frozen=True, kw_only=True)
class LayerRun:
    """One node that the engine ran.

    Attributes:
        layer: the file's node that it comes from (the engine's own name for what it added).
        operator: the kernel that ran; with its domain where that is not ONNX's.
        kind: one of ``KINDS``, ``requantization``, ``parameter`` (computes stored values anew on
            every run) or ``other``.
        input_types: of the inputs that depend on the images.
        output_types: of the outputs.
        provider: such as ``CPUExecutionProvider``.
        time_share: of the time in kernels, 0…1.
        integer: whether all those types are integers (logits may be float).
    """

    layer: str
    operator: str
    kind: str
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    provider: str
    time_share: float
    integer: bool


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A layer that breaks the promise, and why."""

    layer: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What :func:`certify` found.

    Attributes:
        model: the file's name.
        model_sha256: of its bytes.
        engine: such as ``onnxruntime-cpu``.
        threads: as set.
        images: in the sample that was run.
        input_type: of the file's own input.
        adapted: whether a copy with another interface or node names was run (a file with float
            input); the file's own nodes are the same.
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
    threads: int
    images: int
    input_type: str
    adapted: bool
    layers: tuple[LayerRun, ...]
    requantizations: tuple[str, ...]
    float_requantizations: tuple[str, ...]
    failures: tuple[Failure, ...]

    @property
    def ok(self) -> bool:
        """Whether every convolution, product, addition and pool ran in integers."""
        return not self.failures

    def count(self, kind: str, *, integer: bool) -> int:
        """Give how many nodes of a kind ran in integers, or in float."""
        return sum(layer.kind == kind and layer.integer == integer for layer in self.layers)

    def counts(self) -> dict[str, dict[str, int]]:
        """Give ``{kind: {"integer": n, "float": n}}``."""
        return {
            kind: {
                "integer": self.count(kind, integer=True),
                "float": self.count(kind, integer=False),
            }
            for kind in KINDS
        }

    def summary(self) -> str:
        """Give text such as ``9 of 9 convolutions integer, …`` and one line per failure."""
        parts = []
        for kind, count in self.counts().items():
            total = count["integer"] + count["float"]
            word = kind if total == 1 else _PLURALS[kind]
            parts.append(f"{count['integer']} of {total} {word} integer")
        parts.append(f"{len(self.requantizations)} requantizations in integers")
        parts.append(
            f"{len(self.float_requantizations)} by DequantizeLinear → QuantizeLinear pairs"
        )
        lines = [f"{'integer' if self.ok else 'NOT INTEGER'}: {', '.join(parts)}"]
        lines += [f"  {failure.layer}: {failure.reason}" for failure in self.failures]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Give plain JSON values, with a format version and the counts."""
        return {
            "format_version": FORMAT_VERSION,
            "ok": self.ok,
            "counts": self.counts(),
            **asdict(self),
        }

    @classmethod
    def from_json(cls, value: object) -> Certificate:
        """Read what :meth:`to_json` gave.

        Raises:
            InputError: another format version, or fields missing or unknown.
        """
        if not isinstance(value, Mapping) or value.get("format_version") != FORMAT_VERSION:
            raise InputError(f"expected a certificate of format version {FORMAT_VERSION}")
        derived = ("format_version", "ok", "counts")
        fields = {name: part for name, part in value.items() if name not in derived}
        try:
            fields["layers"] = tuple(
                LayerRun(
                    **{
                        **layer,
                        "input_types": tuple(layer["input_types"]),
                        "output_types": tuple(layer["output_types"]),
                    }
                )
                for layer in fields["layers"]
            )
            for name in ("requantizations", "float_requantizations"):
                fields[name] = tuple(fields[name])
            fields["failures"] = tuple(Failure(**failure) for failure in fields["failures"])
            return cls(**fields)
        except (TypeError, KeyError) as error:
            raise InputError(f"the certificate has missing or unknown fields: {error}") from error


def require_integer(certificate: Certificate) -> Certificate:
    """Give the certificate back if everything in it is integer.

    Raises:
        CertificateError: with the layers that are not, and why.
    """
    if not certificate.ok:
        raise CertificateError(f"{certificate.model} is {certificate.summary()}")
    return certificate


def certify(
    model: Path | str,
    sample: NDArray[np.uint8],
    *,
    threads: int = 1,
    optimize: bool = True,
) -> Certificate:
    """Run a sample through ONNX Runtime's CPU provider and say what ran.

    Any ONNX image classifier is taken: one with a float input gets a Cast in front, which is not
    counted (and its float input is a failure of its own).

    Args:
        model: the ONNX file.
        sample: a few images, uint8 N×3×H×W; what they show does not matter.
        threads: of the engine.
        optimize: False to see the file's nodes as they are.

    Raises:
        InputError: the file is damaged, no image classifier, or refused by the engine.
        EngineUnavailable: onnxruntime is not installed.
    """
    model = Path(model)
    check_images(sample)
    view = with_image_interface(read_model(model), height=sample.shape[2], width=sample.shape[3])
    file_nodes = {node.name for node in view.model.graph.node}
    with tempfile.TemporaryDirectory(prefix="qadtr-certificate-") as folder:
        loaded = model
        if view.changed:
            loaded = Path(folder) / "model.onnx"
            write_atomic(loaded, view.model.SerializeToString())
        optimized, profile = Path(folder) / "optimized.onnx", Path(folder) / "profile.json"
        with OnnxRuntimeEngine(
            loaded,
            threads=threads,
            optimize=optimize,
            profile_to=profile,
            optimized_to=optimized,
        ) as engine:
            step = engine.batch_size or len(sample)
            for start in range(0, len(sample), step):
                run_batch(engine, sample[start : start + step])
            name = engine.name
        graph = read_engine_graph(optimized, profile, file_nodes=file_nodes)
    pairs = _float_requantizations(graph)
    own = [node for node in graph.nodes if node.name != ADAPTER]
    total = sum(node.time_us for node in own)
    layers = tuple(_layer(node, graph, total) for node in own)
    return Certificate(
        model=model.name,
        model_sha256=sha256_of(model),
        engine=name,
        threads=threads,
        images=len(sample),
        input_type=view.input_type,
        adapted=view.changed,
        layers=layers,
        requantizations=tuple(node.layer for node in own if _requantizes(node, graph)),
        float_requantizations=tuple(f"{a.layer} → {b.layer}" for a, b in pairs),
        failures=tuple(_failures(own, layers, graph, view.input_type, pairs)),
    )


def _bare(operator: str) -> str:
    return operator.rpartition(".")[2]


def _layer(node: RanNode, graph: EngineGraph, total_us: int) -> LayerRun:
    reads = tuple(graph.types[name] for name in node.inputs if name in graph.types)
    gives = [
        kind
        for name, kind in zip(node.outputs, node.output_types, strict=True)
        if name not in graph.outputs
    ]
    kind = KIND_OF.get(_bare(node.operator), "other")
    if not node.depends_on_images:
        kind = "parameter"
    elif _requantizes(node, graph):
        kind = "requantization"
    return LayerRun(
        layer=node.layer,
        operator=node.operator,
        kind=kind,
        input_types=reads,
        output_types=node.output_types,
        provider=node.provider,
        time_share=node.time_us / total_us if total_us else 0.0,
        integer=_INTEGERS.issuperset(reads) and _INTEGERS.issuperset(gives),
    )


def _requantizes(node: RanNode, graph: EngineGraph) -> bool:
    """Whether an integer node with one tensor that depends on the images only changes its scale."""
    moving = [name for name in node.inputs if name in graph.types]
    return len(moving) == 1 and _bare(node.operator) in ("QLinearAdd", "QLinearConcat")


def _float_requantizations(graph: EngineGraph) -> list[tuple[RanNode, RanNode]]:
    pairs = []
    for node in graph.nodes:
        if _bare(node.operator) != "DequantizeLinear" or not node.depends_on_images:
            continue
        readers = graph.readers(node.outputs[0])
        if (
            readers
            and node.outputs[0] not in graph.outputs
            and all(_bare(reader.operator) == "QuantizeLinear" for reader in readers)
        ):
            pairs += [(node, reader) for reader in readers]
    return pairs


def _failures(
    nodes: list[RanNode],
    layers: tuple[LayerRun, ...],
    graph: EngineGraph,
    input_type: str,
    pairs: list[tuple[RanNode, RanNode]],
) -> list[Failure]:
    failures = [
        Failure(layer=name, reason="graph and profile disagree here: what ran is not proven")
        for name in graph.unproven
    ]
    if input_type != "uint8":
        failures.append(
            Failure(
                layer="input",
                reason=f"the input is {input_type}; an integer graph takes the image bytes, uint8",
            )
        )
    kinds = Counter(layer.kind for layer in layers)
    if not kinds["convolution"] + kinds["matrix product"]:
        failures.append(
            Failure(layer="graph", reason="it has no convolution and no matrix product")
        )
    paired = {node.name for node, _ in pairs}
    for node, layer in zip(nodes, layers, strict=True):
        floats = [
            name
            for name, kind in zip(node.outputs, node.output_types, strict=True)
            if kind not in _INTEGERS and name not in graph.outputs
        ]
        if layer.provider != PROVIDERS["cpu"]:
            failures.append(Failure(layer=layer.layer, reason=f"ran on {layer.provider}"))
        if layer.kind in KINDS and not layer.integer:
            reason = f"{layer.operator} ran in float: {why_float(node, graph)}"
            failures.append(Failure(layer=layer.layer, reason=reason))
        elif floats and layer.kind == "parameter":
            reason = (
                f"{layer.operator} computes stored parameters in float on every run: "
                f"{why_computed_again(node, graph)}"
            )
            failures.append(Failure(layer=layer.layer, reason=reason))
        elif floats and node.name not in paired:
            reason = f"{layer.operator} gives a float tensor, {', '.join(map(repr, floats))}"
            failures.append(Failure(layer=layer.layer, reason=reason))
    return failures
