"""Operations that have no integer form here, with the reason and a replacement."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

from training.quantize.operations.call import (
    Call,
    FunctionTakers,
    ModuleTakers,
    Taker,
    Traced,
    Untakeable,
)


def _refused(reason: str, cure: str) -> Taker:
    def take(_call: Call, *_arguments: Any, **_keywords: Any) -> NoReturn:
        raise Untakeable(reason, cure)

    return take


_NORM_OF_EACH_IMAGE = _refused(
    "it normalizes by statistics of each image, for which there is no integer layer",
    "use nn.BatchNorm2d, whose statistics are constants after training, and train again",
)
_ATTENTION = _refused(
    "it multiplies tensors that all depend on the image", "use convolutions, or a sigmoid gate"
)


def _matmul(call: Call, a: Any, b: Any) -> NoReturn:
    if isinstance(a, Traced) and isinstance(b, Traced):
        _ATTENTION(call)
    raise Untakeable("it multiplies by a stored matrix", "use nn.Linear or F.linear")


_TRANSPOSED = _refused(
    "there is no integer layer for transposed convolutions",
    "use nn.Upsample with mode='nearest', then nn.Conv2d",
)

MODULES: ModuleTakers = {
    nn.GroupNorm: _NORM_OF_EACH_IMAGE,
    nn.InstanceNorm1d: _NORM_OF_EACH_IMAGE,
    nn.InstanceNorm2d: _NORM_OF_EACH_IMAGE,
    nn.LayerNorm: _NORM_OF_EACH_IMAGE,
    nn.LocalResponseNorm: _NORM_OF_EACH_IMAGE,
    nn.RMSNorm: _NORM_OF_EACH_IMAGE,
    nn.MultiheadAttention: _ATTENTION,
    nn.ConvTranspose2d: _TRANSPOSED,
}
FUNCTIONS: FunctionTakers = {
    "group_norm": _NORM_OF_EACH_IMAGE,
    "instance_norm": _NORM_OF_EACH_IMAGE,
    "layer_norm": _NORM_OF_EACH_IMAGE,
    "local_response_norm": _NORM_OF_EACH_IMAGE,
    "normalize": _NORM_OF_EACH_IMAGE,
    "rms_norm": _NORM_OF_EACH_IMAGE,
    "bmm": _matmul,
    "matmul": _matmul,
    "mm": _matmul,
    "scaled_dot_product_attention": _ATTENTION,
    "conv_transpose2d": _TRANSPOSED,
}
