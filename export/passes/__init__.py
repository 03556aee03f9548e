"""Lowering rules: from the codes of one quantizer to those of the next, in integer operators.

Each rule is one file with its algebra in the docstring.  The driver (:mod:`export.lowering`) walks
the QONNX graph in order and asks the rules, at every ``Quant`` node and at the final linear layer,
which of them matches; a rule that does not says why, and if none matches the export is refused
with all the reasons.
"""
