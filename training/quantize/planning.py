"""From the float graph to the plan, with the tensors that the network starts from.

The graph is rewritten first (:mod:`training.quantize.rewriting`); then widths, signs and scales
follow from which step reads which tensor (:mod:`training.quantize.plan`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from deploy.core.errors import InputError
from training.quantize.graph import (
    MOVERS,
    FloatGraph,
    Operation,
    Refusal,
    Refused,
    is_gate,
    unique,
    value_range,
)
from training.quantize.plan import GATE_SCALE, IMAGE_SCALE, Codes, Plan, Step
from training.quantize.rewriting import Normalization, readers_of, rewritten


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan and its float tensors, by the name of the step and their role."""

    plan: Plan
    tensors: Mapping[str, Mapping[str, Tensor]]


def plan_of(
    graph: FloatGraph, *, normalization: Normalization | None = None, wide: Sequence[str] = ()
) -> Planned:
    """Plan a float graph.

    Args:
        graph: from :func:`training.quantize.trace.trace`.
        normalization: of the image; None: the network takes (byte - 128) / 64.
        wide: patterns (``head.*``) of layers whose weights and codes keep 8 bits.

    Raises:
        Refused: operations that no codes can be planned for; the message lists all of them.
        InputError: a pattern that matches no layer; the message lists the layers.
    """
    operations = rewritten(graph, normalization)
    layers = [one.name for one in operations if one.kind in ("convolution", "unary", "linear")]
    for pattern in wide:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise InputError(
                f"wide: no layer matches {pattern!r}; the layers are {', '.join(layers)}"
            )
    return _Planner(operations, tuple(wide)).plan()


class _Classes:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        parent = self._parent.setdefault(name, name)
        if parent != name:
            parent = self._parent[name] = self.find(parent)
        return parent

    def union(self, *names: str) -> None:
        first = self.find(names[0])
        for name in names[1:]:
            self._parent[self.find(name)] = first


class _Planner:
    def __init__(self, operations: list[Operation], wide: tuple[str, ...]) -> None:
        self.operations = operations
        self.by_name = {one.name: one for one in operations}
        self.readers = readers_of(operations)
        self.wide_patterns = wide
        self.refusals: list[Refusal] = []
        self.tied = _Classes()
        """Tensors whose codes are the same numbers, moved: one scale, one sign, one width."""
        self.scales = _Classes()
        """Tensors that share a scale."""
        self.gates: dict[str, str] = {}
        """The gate of each product, by the product's name."""

    def plan(self) -> Planned:
        self._find_gates()
        self._tie()
        self._refuse_gates_that_meet()
        signed = self._signs()
        wide = self._widths()
        if self.refusals:
            raise Refused(tuple(self.refusals))
        return self._steps(signed, wide)

    def _layer_is_wide(self, one: Operation) -> bool:
        """Whether a layer's weights keep 8 bits: the first, the last, and those asked for."""
        if one.kind == "linear" or one.attributes.get("map"):
            return True
        if any(fnmatchcase(one.name, pattern) for pattern in self.wide_patterns):
            return True
        return self._is_of_the_image(one.inputs[0])

    def _is_of_the_image(self, name: str) -> bool:
        """Whether a tensor is the image, moved or mapped value by value (normalized, say)."""
        source = self.by_name[name]
        while source.kind in (*MOVERS, "unary") or source.attributes.get("map"):
            source = self.by_name[source.inputs[0]]
        return source.kind == "image"

    def _find_gates(self) -> None:
        for one in self.operations:
            if one.kind != "gate":
                continue
            first, second = one.inputs
            fits = [is_gate(name, self.by_name) for name in (first, second)]
            # Where both are gates, the smaller map gates the larger.
            if all(fits):
                fits[0] = self.by_name[first].shape != one.shape
            self.gates[one.name] = second if fits[1] else first

    def _refuse_gates_that_meet(self) -> None:
        """Refuse tensors outside of 0…1 that share the constant scale of a gate."""
        for product, gate in self.gates.items():
            group = self.scales.find(self.tied.find(gate))
            for one in self.operations[:-1]:
                same = self.scales.find(self.tied.find(one.name)) == group
                if same and not is_gate(one.name, self.by_name):
                    self.refusals.append(
                        Refusal(
                            path=product,
                            operation="mul",
                            reason=f"its gate shares a scale with {one.name}, in a sum or a "
                            "concatenation",
                            cure="let only products read the gate",
                        )
                    )
                    break

    def _tie(self) -> None:
        for one in self.operations:
            if one.kind in MOVERS:
                self.tied.union(one.inputs[0], one.name)
            elif one.kind == "concat":
                self.tied.union(*one.inputs, one.name)
        for one in self.operations:
            if one.kind == "add":
                self.scales.union(*(self.tied.find(name) for name in (*one.inputs, one.name)))
            elif one.kind == "gate" and one.name in self.gates:
                (gated,) = [n for n in one.inputs if n != self.gates[one.name]] or [one.inputs[0]]
                self.scales.union(self.tied.find(gated), self.tied.find(one.name))

    def _signs(self) -> dict[str, bool]:
        """Whether a tensor's codes are signed, by name."""
        signed: dict[str, bool] = {}
        for one in self.operations:
            match one.kind:
                case "image":
                    signed[one.name] = True
                case "convolution":
                    signed[one.name] = not one.attributes.get("rectified", False)
                case "unary":
                    signed[one.name] = value_range(one.name, self.by_name)[0] < 0.0
                case "add":
                    rectified = one.attributes.get("rectified", False)
                    signed[one.name] = not rectified and any(signed[n] for n in one.inputs)
                case "linear":
                    continue
                case _:
                    signed[one.name] = any(signed[n] for n in one.inputs)
        changed = True
        while changed:
            changed = False
            groups: dict[str, bool] = {}
            for name, value in signed.items():
                group = self.tied.find(name)
                groups[group] = groups.get(group, False) or value
            for one in self.operations[:-1]:
                value = signed[one.name] or groups[self.tied.find(one.name)]
                if one.kind == "add" and not one.attributes.get("rectified"):
                    value = value or any(signed[n] for n in one.inputs)
                if one.kind in ("average pool", "gate"):
                    value = value or any(signed[n] for n in one.inputs)
                if value != signed[one.name]:
                    signed[one.name], changed = value, True
        return signed

    def _widths(self) -> dict[str, bool]:
        """Whether a tensor keeps 8 bits at every bit-width, by name."""
        wide_groups: set[str] = set()
        for one in self.operations:
            meets = one.kind in ("add", "concat", "gate")
            layer = one.kind == "convolution"
            touched: list[str] = []
            if (
                meets
                or one.kind in ("unary", "average pool", "linear")
                or (layer and one.attributes.get("map"))
            ):
                touched += one.inputs
            if (
                meets
                or one.kind in ("image", "average pool")
                or (layer and not one.attributes.get("rectified"))
                or len(self.readers[one.name]) > 1
                or (one.kind == "unary" and self._is_of_the_image(one.name))
                or (
                    one.kind in ("convolution", "unary")
                    and any(fnmatchcase(one.name, pattern) for pattern in self.wide_patterns)
                )
            ):
                touched.append(one.name)
            wide_groups.update(self.scales.find(self.tied.find(name)) for name in touched)
        return {
            one.name: self.scales.find(self.tied.find(one.name)) in wide_groups
            for one in self.operations
        }

    def _scale_names(self) -> dict[str, str]:
        """A name for each class of tensors that share a scale: that of the first step that outputs
        one of them."""
        names: dict[str, str] = {}
        constant = (IMAGE_SCALE, GATE_SCALE)
        for one in self.operations:
            name = one.name
            if name in constant:  # a layer may have that name
                name = unique(name, [*constant, *self.by_name])
            names.setdefault(self.scales.find(self.tied.find(one.name)), name)
        image = self.scales.find(self.tied.find(self.operations[0].name))
        names[image] = IMAGE_SCALE
        for gate in self.gates.values():
            names[self.scales.find(self.tied.find(gate))] = GATE_SCALE
        return names

    def _steps(self, signed: Mapping[str, bool], wide: Mapping[str, bool]) -> Planned:
        names = self._scale_names()
        steps: list[Step] = []
        tensors: dict[str, Mapping[str, Tensor]] = {}
        codes: dict[str, Codes] = {}
        entries: dict[str, str] = {}
        taken = {one.name for one in self.operations}
        for one in self.operations:
            if one.kind == "linear":
                steps.append(
                    Step(
                        name=one.name,
                        kind="linear",
                        inputs=one.inputs,
                        shape=one.shape,
                        codes=None,
                        attributes={
                            **one.attributes,
                            "features": one.tensors["weight"].shape[1],
                            "classes": one.shape[0],
                        },
                    )
                )
                tensors[one.name] = one.tensors
                continue
            own = Codes(
                scale=names[self.scales.find(self.tied.find(one.name))],
                signed=signed[one.name],
                wide=wide[one.name],
            )
            inputs = one.inputs
            if one.kind == "average pool":
                own = self._pooled(one, own, codes[one.inputs[0]])
            if one.kind in MOVERS:
                own = codes[one.inputs[0]]
            if one.kind == "gate":
                gate = self.gates.get(one.name)
                inputs = tuple(n for n in one.inputs if n != gate) + ((gate,) if gate else ())
            if one.kind == "convolution" and self._needs_entry(one, codes[one.inputs[0]]):
                inputs = (self._entry(one, codes, entries, taken, steps),)
            codes[one.name] = own
            steps.append(
                Step(
                    name=one.name,
                    kind=_STEP_OF[one.kind],
                    inputs=inputs,
                    shape=one.shape,
                    codes=own,
                    attributes=self._attributes(one),
                )
            )
            if one.kind == "convolution":
                tensors[one.name] = one.tensors
        return Planned(plan=Plan(steps=tuple(steps)), tensors=tensors)

    def _pooled(self, one: Operation, own: Codes, source: Codes) -> Codes:
        """An average of codes has their scale (times (n + 1) / n), unless it shares a scale with
        other tensors."""
        group = self.scales.find(self.tied.find(one.name))
        alone = all(
            self.scales.find(self.tied.find(other.name)) != group
            or other is one
            or other.kind in MOVERS
            for other in self.operations
        )
        if not alone:
            return own
        height, width = one.attributes["kernel"]
        pooled = max(1, source.pooled) * height * width
        if source.pooled:  # an average of averages would need a ratio of ratios
            return own
        return replace(own, scale=source.scale, pooled=pooled)

    def _needs_entry(self, one: Operation, source: Codes) -> bool:
        constant = source.scale in (IMAGE_SCALE, GATE_SCALE) or source.pooled
        return source.wide and not constant and not self._layer_is_wide(one)

    def _entry(
        self,
        one: Operation,
        codes: dict[str, Codes],
        entries: dict[str, str],
        taken: set[str],
        steps: list[Step],
    ) -> str:
        """The requantization of a wide tensor, shared by all steps that read it."""
        source = one.inputs[0]
        if source not in entries:
            parent, dot, _ = one.name.rpartition(".")
            name = unique(f"{parent if dot else one.name}.enter", taken)
            taken.add(name)
            entries[source] = name
            codes[name] = replace(codes[source], wide=False)
            steps.append(
                Step(
                    name=name,
                    kind="requantize",
                    inputs=(source,),
                    shape=self.by_name[source].shape,
                    codes=codes[name],
                )
            )
        return entries[source]

    def _attributes(self, one: Operation) -> dict[str, Any]:
        if one.kind != "convolution":
            hidden = () if one.kind != "unary" else ("rectified",)
            return {k: v for k, v in one.attributes.items() if k not in hidden}
        weight = one.tensors["weight"]
        groups = one.attributes["groups"]
        kept = ("stride", "padding", "dilation", "groups", "epsilon")
        weights = "map" if one.attributes.get("map") else "switched"
        if weights == "switched" and self._layer_is_wide(one):
            weights = "wide"
        return {
            **{key: one.attributes[key] for key in kept if key in one.attributes},
            "kernel": list(weight.shape[2:]),
            "channels": [weight.shape[1] * groups, weight.shape[0]],
            "weights": weights,
            "norm": "mean" in one.tensors,
            "rectified": bool(one.attributes.get("rectified", False)),
            "ceiling": one.attributes.get("ceiling"),
        }


_STEP_OF: Mapping[str, Any] = {
    "image": "pixels",
    "convolution": "convolution",
    "add": "add",
    "gate": "gate",
    "concat": "concat",
    "unary": "table",
    "average pool": "average pool",
    **{kind: kind for kind in MOVERS},
}
