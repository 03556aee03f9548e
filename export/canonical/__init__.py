"""Convert any quantized ONNX file to the QONNX graph that the passes of the lowering read.

Exporters write one network in many ways. Each module here removes one of these differences from a
:class:`export.canonical.draft.Draft`, and changes no value that the file computes:

==============  ================================================================================
operators       only operators of ONNX and quantizers of QONNX are in the graph, each by its domain
draft           parameters in Constant nodes and computed parameters are stored tensors
ends            Softmax, TopK, ArgMax and the like after the logits are left out, with a note
qdq             QuantizeLinear → Clip? → DequantizeLinear is Quant; IntQuant is Quant
shapes          every tensor has a shape; shapes that are computed from shapes are numbers
plain           no Identity, Squeeze or Dropout; padding and pools as numbers
before_moves    a quantizer is moved before the Concat, MaxPool or Reshape whose result it quantizes
averages        an average of codes that is read unquantized has its sum as codes
sums            a sum of codes that is normalized, or of three tensors, is a convolution with ones
image           the image is quantized; the operations on it before its quantizer are known
==============  ================================================================================
"""

from __future__ import annotations

from pathlib import Path

import onnx

from export.canonical import (
    averages,
    before_moves,
    ends,
    image,
    operators,
    plain,
    qdq,
    shapes,
    sums,
)
from export.canonical.draft import Draft
from export.canonical.image import ImageForm

__all__ = ["Draft", "ImageForm", "canonical"]


def canonical(
    model: onnx.ModelProto, path: Path, form: ImageForm | None = None
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The canonical graph of a checked model (:func:`export.reading.read_model`), and notes: one
    line for each part of the file that the graph leaves out.

    Args:
        model: of the file; it is not changed.
        path: of the file, for errors.
        form: how the image's bytes become the file's input, and its size if the file leaves it
            open.

    Raises:
        InputError: an operator that is not ONNX's or QONNX's, more or fewer than one input or
            output, an input that is not an image, an open size.
    """
    form = form or ImageForm()
    draft = Draft(model, path)
    operators.require_known(draft)
    draft.fold()
    ends.leave_out(draft)
    image.require_image(draft, form)
    qdq.as_quant(draft)
    shapes.infer(draft)
    plain.write_plainly(draft)
    before_moves.hoist(draft)
    averages.as_codes(draft)
    sums.as_convolutions(draft)
    ends.as_values(draft)
    if any(node.op_type in operators.QUANTIZERS for node in draft.nodes):
        image.quantize(draft, form)
    return draft.model(), tuple(draft.notes)
