"""Lowering rules: from the codes of one quantizer to those of the next.

One file for each kind of layer, with its algebra in the docstring: a function that takes the layer
apart, and one that writes it for each family of targets, all-integer (``write_integer_…``) and
Q/DQ.  :mod:`export.targets` puts them together; the driver (:mod:`export.lowering`) walks the QONNX
graph in order and asks the rules of a target, at every ``Quant`` node and at the final linear
layer, which of them matches.  A rule that does not says why, and if none matches the export is
refused with all the reasons.
"""
