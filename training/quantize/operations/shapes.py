"""Operations that move codes without changing them: joining, cutting, reshaping, and no-ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from training.quantize.operations.call import Call, FunctionTakers, ModuleTakers, Traced, Untakeable
from training.quantize.recording import holds_tensor


def _concat(call: Call, tensors: Sequence[Any], dim: int = 0) -> Traced:
    rank = call.value.dim()
    if dim % rank != 1:
        raise Untakeable(f"it joins dimension {dim}", "only channels (dim=1) can be joined")
    return call.add("concat", [call.tensor(one, "a part") for one in tensors])


def _pieces(call: Call, x: Any, dim: int) -> tuple[Traced, ...]:
    source = call.tensor(x)
    if dim % (len(call.shape(source)) + 1) != 1:
        raise Untakeable(f"it splits dimension {dim}", "only channels (dim=1) can be split")
    found, start = [], 0
    for piece in call.value:
        stop = start + piece.shape[1]
        found.append(call.add("slice", [source], {"start": start, "stop": stop}, value=piece))
        start = stop
    return tuple(found)


def _narrow(call: Call, x: Any, dim: int, start: int, length: int) -> Any:
    rank = call.value.dim()
    index = [slice(None)] * rank
    index[dim] = slice(start, start + length or None)
    return _getitem(call, x, tuple(index))


def _getitem(call: Call, x: Any, index: Any) -> Any:
    if isinstance(x, tuple | list):
        return x[index]
    source = call.tensor(x)
    shape = call.shape(source)
    indices = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in indices:
        place = indices.index(Ellipsis)
        missing = len(shape) + 2 - len(indices)
        indices[place : place + 1] = [slice(None)] * missing
    indices += [slice(None)] * (len(shape) + 1 - len(indices))
    if all(isinstance(one, slice) for one in indices) and indices[0] == slice(None):
        spans = [one.indices(size) for one, size in zip(indices[1:], shape, strict=True)]
        (start, stop, step), *rest = spans
        if step == 1 and all(
            (a, b) == (0, n) for (a, b, _), n in zip(rest, shape[1:], strict=True)
        ):
            if (start, stop) != (0, shape[0]):
                value = torch.empty(1, stop - start, *shape[1:])
                source = call.add(
                    "slice", [source], {"start": start, "stop": stop}, value=value
                ).root
            strides = [step for _, _, step in rest]
            if strides in ([], [1, 1]):
                return Traced(root=source)
            if len(strides) == 2:  # every n-th row and column: the largest of windows of one
                window = {"kernel": [1, 1], "stride": strides, "padding": [0, 0, 0, 0]}
                return call.add("max pool", [source], window)
    raise Untakeable(
        f"it takes {index!r}", "channels can be sliced, x[:, a:b], and rows and columns strided"
    )


def _reshape(call: Call, x: Any, *_shape: Any, **_keywords: Any) -> Traced:
    if call.value.shape[0] != call.draft.batch:
        raise Untakeable("it changes the batch", "keep N first")
    source = call.tensor(x)
    shape = [int(n) for n in call.value.shape[1:]]
    if list(call.shape(source)) == shape:
        return Traced(root=source)
    return call.add("reshape", [source], {"shape": shape})


def _flatten(call: Call, x: Any, start_dim: int = 0, end_dim: int = -1) -> Traced:
    return _reshape(call, x)


def _transpose(call: Call, x: Any, dim0: int, dim1: int) -> Traced:
    order = list(range(call.value.dim()))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _permute(call, x, order)


def _movedim(call: Call, x: Any, source: Any, destination: Any) -> Traced:
    # For a tensor of shape 0 × 1 × 2 … the shape after the call is the order.
    order = torch.empty(*range(call.value.dim())).movedim(source, destination).shape
    return _permute(call, x, order)


def _permute(call: Call, x: Any, *order: Any, dims: Any = None) -> Traced:
    given = dims or (order[0] if len(order) == 1 else order)
    wanted = [int(d) % call.value.dim() for d in given]
    if wanted[0] != 0:
        raise Untakeable("it moves the batch", "keep N first")
    return call.add("transpose", [call.tensor(x)], {"order": wanted})


def _channel_shuffle(call: Call, x: Any, groups: int) -> Traced:
    source = call.tensor(x)
    channels, height, width = call.map_shape(source)
    split = [groups, channels // groups, height, width]
    first = call.add("reshape", [source], {"shape": split}, value=torch.empty(1, *split))
    swapped = [split[1], split[0], height, width]
    second = call.add(
        "transpose", [first.root], {"order": [0, 2, 1, 3, 4]}, value=torch.empty(1, *swapped)
    )
    return call.add("reshape", [second.root], {"shape": [channels, height, width]})


def _softmax(call: Call, x: Any, dim: int | None = None, *_rest: Any, **_more: Any) -> Any:
    """A softmax at the end is left out: the logits before it have the same order."""
    last = not any(holds_tensor(call.draft.values.get(user)) for user in call.node.users)
    if last and call.value.dim() == 2 and dim in (None, 1, -1):
        return x
    raise Untakeable(
        "it is not over the classes at the end of the network",
        "leave it out; a gate is a sigmoid",
    )


def _as_it_is(call: Call, x: Any, *_rest: Any, **_more: Any) -> Any:
    return x


def _converted(call: Call, x: Any, *_rest: Any, **_more: Any) -> Any:
    if call.value.dtype != torch.float32:
        raise Untakeable(f"it converts to {call.value.dtype}", "leave everything in float32")
    return x


MODULES: ModuleTakers = {
    nn.Identity: lambda call, m, x: x,
    **dict.fromkeys(
        (
            nn.Dropout,
            nn.Dropout1d,
            nn.Dropout2d,
            nn.Dropout3d,
            nn.AlphaDropout,
            nn.FeatureAlphaDropout,
        ),
        lambda call, m, x: x,
    ),
    nn.Flatten: lambda call, m, x: _reshape(call, x),
    nn.Unflatten: lambda call, m, x: _reshape(call, x),
    nn.Softmax: lambda call, m, x: _softmax(call, x, m.dim),
    nn.LogSoftmax: lambda call, m, x: _softmax(call, x, m.dim),
    nn.ChannelShuffle: lambda call, m, x: _channel_shuffle(call, x, m.groups),
}
FUNCTIONS: FunctionTakers = {
    "cat": _concat,
    "hstack": lambda call, tensors: _concat(call, tensors, 1),
    "chunk": lambda call, x, chunks, dim=0: _pieces(call, x, dim),
    "split": lambda call, x, split_size_or_sections, dim=0: _pieces(call, x, dim),
    "split_with_sizes": lambda call, x, split_sizes, dim=0: _pieces(call, x, dim),
    "tensor_split": lambda call, x, indices_or_sections, dim=0: _pieces(call, x, dim),
    "getitem": _getitem,
    "narrow": _narrow,
    "view": _reshape,
    "reshape": _reshape,
    "unflatten": _reshape,
    "flatten": _flatten,
    "squeeze": _reshape,
    "unsqueeze": _reshape,
    "transpose": _transpose,
    "movedim": _movedim,
    "permute": _permute,
    "channel_shuffle": _channel_shuffle,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "contiguous": _as_it_is,
    "clone": _as_it_is,
    "data": _as_it_is,
    "detach": _as_it_is,
    "float": _as_it_is,
    "requires_grad": _as_it_is,
    "positive": _as_it_is,
    **dict.fromkeys(
        (
            "dropout",
            "dropout1d",
            "dropout2d",
            "dropout3d",
            "feature_dropout",
            "alpha_dropout",
            "feature_alpha_dropout",
        ),
        _as_it_is,
    ),
    "to": _converted,
    "type": _converted,
    "type_as": _converted,
}
