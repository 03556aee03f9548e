"""Names in a graph that is being built."""

from __future__ import annotations

import numpy as np

from export.graph_builder import GraphBuilder


def test_a_layer_has_its_name_and_no_constant_or_other_layer_takes_it() -> None:
    builder = GraphBuilder()
    builder.promise(["s", "s.add"])
    builder.begin("s")
    assert builder.constant(np.float32(2.0), "s") == "s_2"
    assert builder.add("Add", ["x", "s_2"], "s.add") == "s.add_2"
    assert builder.add("Relu", ["s.add_2"], "s") == "s"
    builder.begin("s.add")
    assert builder.constant(np.float32(2.0), "s.add") == "s_2"  # equal constants are one
    assert builder.constant(np.float32(3.0), "s.add") == "s.add_3"
    assert builder.add("Add", ["s", "s.add_3"], "s.add") == "s.add"
