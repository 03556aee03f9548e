"""Rules for Q/DQ graphs: standard operators on float tensors, quantizers written between them.

The runtime's compiler finds Q → DQ around an operator and runs the operator on the codes. What the
file itself says, tensor by tensor, is what the fake-quantized network computes. Two dialects
differ in how codes are stored and clamped (:mod:`export.passes.qdq.dialect`).
"""
