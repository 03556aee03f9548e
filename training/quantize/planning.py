"""From the float graph to the plan, with the tensors that the network starts from.

Four rewritings, each of which leaves the function of the network as it is:

1. A linear layer that is not the last is a convolution whose kernel is as large as the map it
   reads; a vector is a map of one position.  A last convolution of one position is a linear layer,
   and a network that ends otherwise gets the identity as its last layer.
2. A normalization goes into the convolution before it, if nothing else reads that; one that stands
   alone is a convolution of each channel with the constant 1, and a normalization.
3. A ReLU, or a clamp to 0 … c, goes into the quantizer of the convolution or sum before it, if
   nothing else reads that.  Every other function is a table.
4. Normalization of the image, (x / 255 - mean) / std, goes into the layers that read it.

Then widths, signs and scales follow from who reads what (:mod:`training.quantize.plan`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from deploy.core.errors import InputError
from training.quantize.graph import (
    MOVERS,
    FloatGraph,
    Operation,
    Refusal,
    Refused,
    is_gate,
    value_range,
)
from training.quantize.plan import GATE_SCALE, IMAGE_SCALE, Codes, Plan, Step
from training.quantize.pointwise import rectifier

GREY = 128.0
"""The byte that is 0 where no mean is given: the network then sees (byte - 128) / 64."""


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """What the float network takes: (byte / 255 - mean) / std, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def gain_and_offset(self) -> tuple[Tensor, Tensor]:
        """float64 (C,): the network's input is gain · (byte - 128) / 64 + offset."""
        mean = torch.tensor(self.mean, dtype=torch.float64)
        std = torch.tensor(self.std, dtype=torch.float64)
        return 64.0 / (255.0 * std), (GREY / 255.0 - mean) / std

    def padding_byte(self) -> int:
        """The byte that is nearest to what the float network pads with, 0 after normalization."""
        return round(255.0 * sum(self.mean) / len(self.mean))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan and its float tensors, by the name of the step and their role."""

    plan: Plan
    tensors: Mapping[str, Mapping[str, Tensor]]


def normalization_of(
    mean: Sequence[float] | None, std: Sequence[float] | None, *, channels: int
) -> Normalization | None:
    """What mean and std of an image of ``channels`` say; None for None.

    Raises:
        InputError: one without the other, or of another number of channels; a std of 0 or less.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        given, other = ("mean", "std") if std is None else ("std", "mean")
        raise InputError(f"{given} was given without {other}; give both, or neither")
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise InputError(
            f"expected {channels} means and {channels} standard deviations above 0, got "
            f"{list(mean)} and {list(std)}"
        )
    return Normalization(mean=tuple(map(float, mean)), std=tuple(map(float, std)))


def plan_of(
    graph: FloatGraph, *, normalization: Normalization | None = None, wide: Sequence[str] = ()
) -> Planned:
    """Plan a float graph.

    Args:
        graph: of :func:`training.quantize.trace.trace`.
        normalization: of the image; None: the network takes (byte - 128) / 64.
        wide: patterns (``head.*``) of layers whose weights and codes keep 8 bits.

    Raises:
        Refused: what no codes can be planned for, all of it.
        InputError: a pattern that no layer fits; names the layers.
    """
    operations = _without_vectors(list(graph.operations))
    operations = _with_linear_end(operations)
    operations = _norms_folded(operations)
    operations = _rectifiers_folded(operations)
    operations = _image_folded(operations, normalization)
    layers = [one.name for one in operations if one.kind in ("convolution", "unary", "linear")]
    for pattern in wide:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise InputError(f"wide: no layer fits {pattern!r}; there are {', '.join(layers)}")
    return _Planner(operations, tuple(wide)).plan()


# ---------------------------------------------------------------------- rewritings


def _readers(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for one in operations:
        found.setdefault(one.name, [])
        for name in dict.fromkeys(one.inputs):
            found.setdefault(name, []).append(one)
    return found


def _unique(name: str, taken: Collection[str]) -> str:
    """The name, numbered where it is taken."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _renamed(one: Operation, names: Mapping[str, str]) -> Operation:
    inputs = tuple(names.get(name, name) for name in one.inputs)
    return one if inputs == one.inputs else replace(one, inputs=inputs)


def _without_vectors(operations: list[Operation]) -> list[Operation]:
    """Vectors as maps of one position, linear layers as convolutions."""
    found: list[Operation] = []
    names: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    refusals = []
    flattened: dict[str, str] = {}
    last = operations[-1].name
    for original in operations:
        one = _renamed(original, names)
        if one.kind == "reshape" and len(one.shape) == 1:
            source = one.inputs[0]
            if shapes[source][1:] != (1, 1):
                flattened[one.name] = source
            names[one.name] = source
            if one.name != last:
                continue
            if one.name in flattened:  # logits that are a flattened map
                refusals.append(
                    Refusal(
                        path=one.name,
                        operation="flatten",
                        reason=f"the logits are a flattened map of {shapes[source]}",
                        cure="average height and width, or end with a linear layer",
                    )
                )
            continue
        if one.kind == "linear":
            weight = one.tensors["weight"]
            kernel = weight.reshape(len(weight), *shapes[one.inputs[0]])
            one = replace(
                one,
                kind="convolution",
                shape=(len(weight), 1, 1),
                attributes={
                    "stride": [1, 1],
                    "padding": [0, 0, 0, 0],
                    "dilation": [1, 1],
                    "groups": 1,
                },
                tensors={**one.tensors, "weight": kernel},
            )
        elif any(name in flattened for name in original.inputs):
            refusals.append(
                Refusal(
                    path=one.name,
                    operation=one.kind,
                    reason="it reads a flattened map",
                    cure="let a linear layer read it first",
                )
            )
        elif len(one.shape) == 1:
            one = replace(one, shape=(*one.shape, 1, 1))
        shapes[one.name] = one.shape
        found.append(one)
    if refusals:
        raise Refused(tuple(refusals))
    return found


def _with_linear_end(operations: list[Operation]) -> list[Operation]:
    """The last operation as a linear layer."""
    last = operations[-1]
    classes = last.shape[0]
    if last.kind == "convolution" and last.shape[1:] == (1, 1) and last.attributes["groups"] == 1:
        sides = next(one.shape for one in operations if one.name == last.inputs[0])[1:]
        if tuple(last.tensors["weight"].shape[2:]) == sides and not any(last.attributes["padding"]):
            weight = last.tensors["weight"].reshape(classes, -1)
            end = replace(
                last,
                kind="linear",
                shape=(classes,),
                attributes={},
                tensors={**last.tensors, "weight": weight},
            )
            return [*operations[:-1], end]
    end = Operation(
        name=_unique("logits", [one.name for one in operations]),
        kind="linear",
        inputs=(last.name,),
        shape=(classes,),
        attributes={"identity": True},
        tensors={"weight": torch.eye(classes)},
    )
    return [*operations, end]


def _norms_folded(operations: list[Operation]) -> list[Operation]:
    readers = _readers(operations)
    by_name = {one.name: one for one in operations}
    names: dict[str, str] = {}
    found: list[Operation] = []
    for original in operations:
        one = _renamed(original, names)
        if one.kind != "norm":
            found.append(one)
            continue
        before = by_name[original.inputs[0]]
        fixed = one.attributes.get("fixed", False)
        # What goes before may itself have gone into what is before it.
        into = names.get(before.name, before.name)
        place = next((i for i, other in enumerate(found) if other.name == into), None)
        if len(readers[before.name]) == 1 and place is not None:
            conv = found[place]
            if conv.kind == "convolution" and (fixed or "gain" not in conv.tensors):
                found[place] = _with_affine(conv, one) if fixed else _with_norm(conv, one)
                names[original.name] = into
                continue
        alone = _map(one.name, one.inputs[0], one.shape)
        found.append(_with_affine(alone, one) if fixed else _with_norm(alone, one))
    return found


def _map(name: str, source: str, shape: tuple[int, ...]) -> Operation:
    """A convolution of each channel with the constant 1."""
    return Operation(
        name=name,
        kind="convolution",
        inputs=(source,),
        shape=shape,
        attributes={
            "stride": [1, 1],
            "padding": [0, 0, 0, 0],
            "dilation": [1, 1],
            "groups": shape[0],
            "map": True,
        },
        tensors={
            "weight": torch.ones(shape[0], 1, 1, 1),
            "gain": torch.ones(shape[0]),
            "bias": torch.zeros(shape[0]),
        },
    )


def _with_norm(conv: Operation, norm: Operation) -> Operation:
    tensors = {**conv.tensors, **norm.tensors}
    bias = conv.tensors.get("bias")
    if bias is not None:
        tensors["mean"] = norm.tensors["mean"] - bias
    return replace(
        conv,
        attributes={**conv.attributes, "epsilon": norm.attributes["epsilon"]},
        tensors=tensors,
    )


def _with_affine(conv: Operation, affine: Operation) -> Operation:
    """The convolution followed by a gain and a bias for each channel."""
    gain, offset = affine.tensors["gain"], affine.tensors["bias"]
    tensors = dict(conv.tensors)
    if "gain" in tensors:
        tensors["gain"] = tensors["gain"] * gain
    else:
        tensors["weight"] = tensors["weight"] * gain.view(-1, 1, 1, 1)
    tensors["bias"] = tensors.get("bias", torch.zeros_like(gain)) * gain + offset
    return replace(conv, tensors=tensors)


def _rectifiers_folded(operations: list[Operation]) -> list[Operation]:
    readers = _readers(operations)
    by_name = {one.name: one for one in operations}
    names: dict[str, str] = {}
    found: list[Operation] = []
    for original in operations:
        one = _renamed(original, names)
        before = by_name.get(original.inputs[0]) if original.inputs else None
        clamp = rectifier(one.attributes["expression"]) if one.kind == "unary" else None
        if (
            clamp is not None
            and before is not None
            and before.kind in ("convolution", "add")
            and len(readers[before.name]) == 1
        ):
            place = next(i for i, other in enumerate(found) if other.name == before.name)
            attributes = {**found[place].attributes, "rectified": True, "ceiling": clamp[0]}
            found[place] = replace(found[place], attributes=attributes)
            names[original.name] = before.name
            continue
        found.append(one)
    return found


def _image_folded(
    operations: list[Operation], normalization: Normalization | None
) -> list[Operation]:
    """Normalization of the image in the layers that read it; padding by its byte, explicitly."""
    image = operations[0]
    channels = image.shape[0]
    moved = {image.name}
    moved.update(one.name for one in operations if one.kind in MOVERS and one.inputs[0] in moved)
    meets = any(
        one.kind in ("add", "concat", "gate") and moved.intersection(one.inputs)
        for one in operations
    )
    if normalization is None:
        if not meets:
            return operations
        gain, offset, byte = torch.ones(channels), torch.zeros(channels), GREY
    else:
        gain, offset = normalization.gain_and_offset()
        byte = normalization.padding_byte()
    value = (byte - GREY) / 64.0
    source, names = image.name, [one.name for one in operations]
    found = [image]
    plain = meets or any(
        image.name in one.inputs and (one.kind != "convolution" or one.attributes.get("map"))
        for one in operations
    )
    if plain:
        # Something other than a convolution reads the image: normalize it once, for everybody,
        # with a scale of its own.
        source = _unique(f"{image.name}.normalized", names)
        affine = {"gain": gain.float(), "bias": offset.float()}
        own = _map(source, image.name, image.shape)
        found.append(replace(own, tensors={**own.tensors, **affine}))
    padded: dict[tuple[int, ...], str] = {}
    for one in operations[1:]:
        if image.name not in one.inputs:
            found.append(one)
            continue
        if plain:
            found.append(_renamed(one, {image.name: source}))
            continue
        folded = _scaled_input(one, gain, offset)
        pads = tuple(one.attributes["padding"])
        if any(pads) and value != 0.0:
            if pads not in padded:
                _, height, width = image.shape
                shape = (image.shape[0], height + pads[0] + pads[2], width + pads[1] + pads[3])
                padded[pads] = _unique(f"{image.name}.pad", [*names, *padded.values()])
                found.append(
                    Operation(
                        name=padded[pads],
                        kind="pad",
                        inputs=(image.name,),
                        shape=shape,
                        attributes={"amounts": list(pads), "channels": [0, 0], "value": value},
                    )
                )
            attributes = {**folded.attributes, "padding": [0, 0, 0, 0]}
            folded = replace(folded, inputs=(padded[pads],), attributes=attributes)
        found.append(folded)
    return found


def _scaled_input(conv: Operation, gain: Tensor, offset: Tensor) -> Operation:
    """The convolution of ``gain · x + offset`` as a convolution of x."""
    weight = conv.tensors["weight"].double()
    groups = conv.attributes["groups"]
    own, shift = gain, offset
    if groups > 1:  # each output reads the channels of its group
        per_group = weight.shape[1]
        group = torch.arange(len(weight)) // (len(weight) // groups)
        rows = group[:, None] * per_group + torch.arange(per_group)[None]
        factor, added = own[rows][:, :, None, None], shift[rows][:, :, None, None]
    else:
        factor, added = own[None, :, None, None], shift[None, :, None, None]
    extra = (weight * added).sum(dim=(1, 2, 3))
    tensors = dict(conv.tensors)
    tensors["weight"] = (weight * factor).float()
    if "mean" in tensors:
        tensors["mean"] = (tensors["mean"].double() - extra).float()
    else:
        tensors["bias"] = (tensors.get("bias", torch.zeros(len(weight))).double() + extra).float()
    return replace(conv, tensors=tensors)


# ---------------------------------------------------------------------- widths, signs, scales


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
        self.readers = _readers(operations)
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
        source = self.by_name[one.inputs[0]]
        while source.kind in MOVERS:
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
        """A gate's scale is constant; what shares it must be in 0…1 as well."""
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
                            cure="let nothing but products read the gate",
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
        """A name for each class of tensors that share a scale: that of its first maker."""
        names: dict[str, str] = {}
        for one in self.operations:
            names.setdefault(self.scales.find(self.tied.find(one.name)), one.name)
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
        """The average of codes has their scale (times (n + 1) / n), unless it meets others."""
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
        """The requantization of a wide tensor, once for all that read it."""
        source = one.inputs[0]
        if source not in entries:
            parent, dot, _ = one.name.rpartition(".")
            name = _unique(f"{parent if dot else one.name}.enter", taken)
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
