"""Lowering rules, each from the codes of one quantizer to those of the next.

Each kind of layer has one file, with its algebra in the docstring.  One function matches the layer;
one function for each family of targets, all-integer (``write_integer_…``) and Q/DQ, writes it;
those for LiteRT are together, in the files ``litert…``.
:mod:`export.targets` combines them.  The driver (:mod:`export.lowering`) walks the QONNX graph in
order and tries the rules of a target at every ``Quant`` node and at the final linear layer.  A rule
that does not match gives its reason; if none matches, the export is refused with all the reasons.
"""
