"""Lowering rules: from the codes of one quantizer to those of the next.

One file for each kind of layer, with its algebra in the docstring: a function that takes the layer
apart, and one that writes it for each family of targets, all-integer (``write_integer_…``) and
Q/DQ.  :mod:`export.targets` combines them.  The driver (:mod:`export.lowering`) walks the QONNX
graph in order and tries the rules of a target at every ``Quant`` node and at the final linear
layer.  A rule that does not match gives its reason; if none matches, the export is refused with all
the reasons.
"""
