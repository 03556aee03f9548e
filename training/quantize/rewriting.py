"""Four rewritings of the float graph, each of which keeps the function of the network.

1. A linear layer that is not the last becomes a convolution whose kernel is as large as the map it
   reads; a vector becomes a map of one position.  A last convolution of one position becomes a
   linear layer, and a network that ends differently gets the identity as its last layer.
2. A normalization is folded into the convolution before it, if nothing else reads the convolution.
   Otherwise it becomes a convolution of each channel with the constant 1 and a normalization.
3. A ReLU, or a clamp to 0 … c, is folded into the quantizer of the convolution or sum before it, if
   nothing else reads that.  Every other function becomes a table.
4. Normalization of the image, (x / 255 - mean) / std, is folded into the layers that read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deploy.core.errors import InputError
from training.quantize.graph import MOVERS, FloatGraph, Operation, Refusal, Refused, unique
from training.quantize.pointwise import rectifier

_PLAIN: Mapping[str, Any] = {"stride": [1, 1], "padding": [0, 0, 0, 0], "dilation": [1, 1]}
"""Of a convolution that steps by one, without borders or gaps."""

GREY = 128.0
"""The byte that is 0 where no mean is given: the network then sees (byte - 128) / 64."""


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """The input of the float network: (byte / 255 - mean) / std, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def gain_and_offset(self) -> tuple[Tensor, Tensor]:
        """float64 (C,): the network's input is gain · (byte - 128) / 64 + offset."""
        mean = torch.tensor(self.mean, dtype=torch.float64)
        std = torch.tensor(self.std, dtype=torch.float64)
        return 64.0 / (255.0 * std), (GREY / 255.0 - mean) / std

    def padding_byte(self) -> int:
        """The byte nearest to the padding of the float network, which is 0 after normalization."""
        return round(255.0 * sum(self.mean) / len(self.mean))


def normalization_of(
    mean: Sequence[float] | None, std: Sequence[float] | None, *, channels: int
) -> Normalization | None:
    """The normalization by mean and std of an image with ``channels`` channels; None for None.

    Raises:
        InputError: one without the other; the wrong number of channels; a std of 0 or less.
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


def rewritten(graph: FloatGraph, normalization: Normalization | None) -> list[Operation]:
    """The operations after all four, in order; the last is a linear layer.

    Raises:
        Refused: a flattened map that no linear layer reads.
    """
    operations = _without_vectors(list(graph.operations))
    operations = _with_linear_end(operations)
    operations = _norms_folded(operations)
    operations = _rectifiers_folded(operations)
    return _image_folded(operations, normalization)


def readers_of(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """The operations that read each operation, by its name."""
    found: dict[str, list[Operation]] = {}
    for one in operations:
        found.setdefault(one.name, [])
        for name in dict.fromkeys(one.inputs):
            found.setdefault(name, []).append(one)
    return found


def renamed(one: Operation, names: Mapping[str, str]) -> Operation:
    """The operation with new names for its inputs."""
    inputs = tuple(names.get(name, name) for name in one.inputs)
    return one if inputs == one.inputs else replace(one, inputs=inputs)


def _without_vectors(operations: list[Operation]) -> list[Operation]:
    """The operations with vectors as maps of one position and linear layers as convolutions."""
    found: list[Operation] = []
    names: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    refusals = []
    flattened: dict[str, str] = {}
    last = operations[-1].name
    for original in operations:
        one = renamed(original, names)
        if one.kind == "reshape" and len(one.shape) == 1:
            source = one.inputs[0]
            if shapes[source][1:] != (1, 1):
                flattened[one.name] = source
            names[one.name] = source
            if one.name != last:
                continue
            if one.name in flattened:  # the logits are a flattened map
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
                attributes={**_PLAIN, "groups": 1},
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
    """The operations with a linear layer as the last one."""
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
        name=unique("logits", [one.name for one in operations]),
        kind="linear",
        inputs=(last.name,),
        shape=(classes,),
        attributes={"identity": True},
        tensors={"weight": torch.eye(classes)},
    )
    return [*operations, end]


def _folded(
    operations: list[Operation],
    fold: Callable[[Operation, Operation], Operation | None],
    alone: Callable[[Operation], Operation] = lambda one: one,
) -> list[Operation]:
    """Fold each operation into the one before it, where nothing else reads that one and
    ``fold(before, one)`` returns the folded operation; the others become what ``alone`` returns."""
    readers = readers_of(operations)
    names: dict[str, str] = {}
    found: dict[str, Operation] = {}
    for original in operations:
        one = renamed(original, names)
        # The operation before may itself have been folded into its predecessor.
        before = found.get(one.inputs[0]) if one.inputs else None
        folded = None
        if before is not None and len(readers[original.inputs[0]]) == 1:
            folded = fold(before, one)
        if before is None or folded is None:
            found[one.name] = alone(one)
        else:
            found[before.name] = folded
            names[original.name] = before.name
    return list(found.values())


def _norms_folded(operations: list[Operation]) -> list[Operation]:
    def folded(conv: Operation, norm: Operation) -> Operation:
        return (_with_affine if norm.attributes.get("fixed") else _with_norm)(conv, norm)

    def fold(before: Operation, one: Operation) -> Operation | None:
        if one.kind != "norm" or before.kind != "convolution":
            return None
        fits = one.attributes.get("fixed") or "gain" not in before.tensors
        return folded(before, one) if fits else None

    def alone(one: Operation) -> Operation:
        if one.kind != "norm":
            return one
        return folded(_map(one.name, one.inputs[0], one.shape), one)

    return _folded(operations, fold, alone)


def _map(name: str, source: str, shape: tuple[int, ...]) -> Operation:
    """A convolution of each channel with the constant 1."""
    return Operation(
        name=name,
        kind="convolution",
        inputs=(source,),
        shape=shape,
        attributes={**_PLAIN, "groups": shape[0], "map": True},
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
    def fold(before: Operation, one: Operation) -> Operation | None:
        clamp = rectifier(one.attributes["expression"]) if one.kind == "unary" else None
        takes = before.kind in ("convolution", "add") and "rectified" not in before.attributes
        if clamp is None or not takes:
            return None
        attributes = {**before.attributes, "rectified": True, "ceiling": clamp[0]}
        return replace(before, attributes=attributes)

    return _folded(operations, fold)


def _image_folded(
    operations: list[Operation], normalization: Normalization | None
) -> list[Operation]:
    """Fold normalization of the image into the layers that read it; padding becomes explicit, with
    the padding byte."""
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
        # Something other than a convolution reads the image: normalize it once for all readers,
        # with a separate scale.
        source = unique(f"{image.name}.normalized", names)
        affine = {"gain": gain.float(), "bias": offset.float()}
        own = _map(source, image.name, image.shape)
        found.append(replace(own, tensors={**own.tensors, **affine}))
    padded: dict[tuple[int, ...], str] = {}
    for one in operations[1:]:
        if image.name not in one.inputs:
            found.append(one)
            continue
        if plain:
            found.append(renamed(one, {image.name: source}))
            continue
        folded = _scaled_input(one, gain, offset)
        pads = tuple(one.attributes["padding"])
        if any(pads) and value != 0.0:
            if pads not in padded:
                _, height, width = image.shape
                shape = (image.shape[0], height + pads[0] + pads[2], width + pads[1] + pads[3])
                padded[pads] = unique(f"{image.name}.pad", [*names, *padded.values()])
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
