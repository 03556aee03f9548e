"""The graph that ONNX Runtime actually ran: its saved optimized graph joined with its profile.

The optimized graph has the wiring and the stored tensors. The profile has, for each node, the
kernel's operator, the types of its tensors, the provider and the time. Neither alone is a proof.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from deploy.core.errors import InputError
from deploy.device.profile_check import read_profile
from export.graph import Wiring, fresh_name, graph_inputs, type_name
from export.reading import read_model

_SUFFIX = "_kernel_time"
_RENAMED = re.compile(r"(_token_\d+|/duplicated)+$")


@dataclass(frozen=True, kw_only=True)
class RanNode:
    """One node that the engine ran.

    Attributes:
        name: in the optimized graph.
        layer: the file's node that it comes from, or ``name`` if the engine added it.
        operator: such as ``QLinearConv``; prefixed by its domain unless it is ONNX's own.
        output_types: element type of each output, from the profile.
        provider: such as ``CPUExecutionProvider``.
        time_us: of the fastest run, which a busy machine affects least.
        activation: float activation that the engine fused into it, such as ``Relu``; else empty.
        depends_on_images: False if it recomputes stored parameters on every run.
    """

    name: str
    layer: str
    operator: str
    input: tuple[str, ...]
    output: tuple[str, ...]
    output_types: tuple[str, ...]
    provider: str
    time_us: int
    activation: str
    depends_on_images: bool


class EngineGraph(Wiring[RanNode]):
    """All nodes that the engine ran, in the graph's order.

    Attributes:
        nodes: each with a profile.
        unproven: names of nodes of the optimized graph without a profile, and of profiled kernels
            that are not in it.
        types: element type of each tensor that depends on the images.
        stored: element type of each stored tensor.
        overridable: stored tensors that are also graph inputs, so that the engine must not fold
            them.
        outputs: the graph's outputs.
    """

    def __init__(
        self,
        nodes: Iterable[RanNode],
        *,
        unproven: tuple[str, ...] = (),
        types: Mapping[str, str],
        stored: Mapping[str, str],
        overridable: frozenset[str] = frozenset(),
        outputs: frozenset[str],
    ) -> None:
        super().__init__(nodes)
        self.unproven, self.types, self.stored = unproven, types, stored
        self.overridable, self.outputs = overridable, outputs


@dataclass
class _Kernel:
    operator: str
    provider: str
    output_types: tuple[str, ...]
    times_us: list[int] = field(default_factory=list)


def read_engine_graph(optimized: Path, profile: Path, *, file_nodes: set[str]) -> EngineGraph:
    """Join a saved optimized graph (ONNX) with the profile (JSON) of the same session;
    ``file_nodes`` are the names of the nodes in the file that was loaded.

    Raises:
        InputError: one of the files is not what the engine writes.
    """
    model = read_model(optimized)
    kernels = _kernels(profile)
    stored = {one.name: type_name(one.data_type) for one in model.graph.initializer}
    types = {
        value.name: type_name(value.type.tensor_type.elem_type) for value in graph_inputs(model)
    }
    nodes: list[RanNode] = []
    unproven: list[str] = []
    for node in model.graph.node:
        kernel = kernels.pop(node.name, None)
        outputs = tuple(name for name in node.output if name)
        if kernel is None or len(kernel.output_types) != len(outputs):
            unproven.append(node.name or outputs[0])
            continue
        depends = any(name in types for name in node.input) or _has_graph(node)
        if depends:
            types.update(zip(outputs, kernel.output_types, strict=True))
        fused = (one.s.decode() for one in node.attribute if one.name == "activation")
        domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
        base = _RENAMED.sub("", node.name)
        nodes.append(
            RanNode(
                name=node.name,
                layer=base if base in file_nodes else node.name,
                operator=f"{domain}{kernel.operator}",
                input=tuple(node.input),
                output=outputs,
                output_types=kernel.output_types,
                provider=kernel.provider,
                time_us=min(kernel.times_us),
                activation=next(fused, ""),
                depends_on_images=depends,
            )
        )
    inputs = {value.name for value in model.graph.input}
    return EngineGraph(
        nodes,
        unproven=(*unproven, *kernels),
        types=types,
        stored=stored,
        overridable=frozenset(name for name in stored if name in inputs),
        outputs=frozenset(value.name for value in model.graph.output),
    )


def node_names_made_unique(model: onnx.ModelProto) -> bool:
    """Name nodes that have no name or a duplicate one; returns whether there were any.

    An engine's profile identifies nodes only by name. A node is named after its first output.
    """
    seen: set[str] = set()
    taken = {node.name for node in model.graph.node if node.name}
    changed = False
    for node in model.graph.node:
        if not node.name or node.name in seen:
            first = next((name for name in node.output if name), node.op_type)
            node.name = fresh_name(first, taken)
            changed = True
        seen.add(node.name)
    return changed


def _has_graph(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _kernels(profile: Path) -> dict[str, _Kernel]:
    events = read_profile(profile)
    kernels: dict[str, _Kernel] = {}
    for event in events:
        name = event.get("name", "") if isinstance(event, dict) else ""
        if not name.endswith(_SUFFIX) or event.get("cat") != "Node":
            continue
        try:
            arguments: dict[str, Any] = event["args"]
            kernel = kernels.setdefault(
                name.removesuffix(_SUFFIX),
                _Kernel(
                    operator=str(arguments["op_name"]),
                    provider=str(arguments["provider"]),
                    output_types=tuple(
                        str(next(iter(one))) for one in arguments["output_type_shape"]
                    ),
                ),
            )
            kernel.times_us.append(int(event["dur"]))
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise InputError(
                f"{profile}: event {name!r} lacks a field of a kernel: {error}"
            ) from error
    if not kernels:
        raise InputError(f"{profile} has no kernel times; run the engine before closing it")
    return kernels
