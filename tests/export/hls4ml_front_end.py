"""What hls4ml's ONNX front end makes of a QONNX file, and the operator that stops it.

    qadtr export RUN --bits 4 --target qonnx
    python3.11 -m venv hls && hls/bin/pip install 'hls4ml[onnx]==1.3.0' qonnx==1.0.0
    hls/bin/python tests/export/hls4ml_front_end.py RUN/export/qonnx-4.onnx

Needs nothing of this project, since hls4ml wants an environment of its own. The file goes the way
that hls4ml's documentation asks for: cleaned, channels last, Gemm as MatMul, cleaned again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
import warnings
from typing import Any

import hls4ml
from hls4ml.model.optimizer.passes import move_scales
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
from qonnx.transformation.gemm_to_matmul import GemmToMatMul
from qonnx.util.cleanup import cleanup_model

MOVES = {"Conv": move_scales.ScaleDownConv, "MatMul": move_scales.ScaleDownMatMul}
"""By operator, the pass that must move the scales of its quantized inputs behind it."""


def main() -> int:
    """Convert; 1 and the operator where that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="QONNX file")
    arguments = parser.parse_args()
    model = cleanup_model(ModelWrapper(arguments.model))
    model = model.transform(ConvertToChannelsLastAndClean()).transform(GemmToMatMul())
    model = cleanup_model(model)
    refused = _watched()
    print(f"hls4ml {hls4ml.__version__}, {arguments.model}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = hls4ml.utils.config.config_from_onnx_model(
            model, granularity="name", backend="Vitis", default_precision="fixed<16,6>"
        )
        try:
            made = hls4ml.converters.convert_from_onnx_model(
                model, output_dir=folder, backend="Vitis", hls_config=config
            )
        except Exception as error:  # noqa: BLE001 - whatever stops it is what is asked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"stopped by {type(error).__name__}: {error}, {where.filename}:{where.lineno}")
            for line in dict.fromkeys(refused):
                print(f"  {line}")
            return 1
    print(f"read: {len(list(made.get_layers()))} layers")
    return 0


def _watched() -> list[str]:
    """Have the passes that move scales tell which nodes they leave as they are."""
    refused: list[str] = []
    for operator, kind in MOVES.items():
        original = kind.transform

        def transform(
            self: Any, model: Any, node: Any, *, original: Any = original, operator: str = operator
        ) -> Any:
            scales = [_scales(node, index) for index in range(len(node.inputs))]
            moved = original(self, model, node)
            if not moved:
                refused.append(f"{operator} {node.name}: cannot move the scales {scales} behind it")
            return moved

        kind.transform = transform
    return refused


def _scales(node: Any, index: int) -> str:
    scale = node.get_input_node(node.inputs[index]).attributes.get("scale_data")
    if scale is None:
        return "none"
    distinct = sorted({float(value) for value in scale.ravel()})
    return "one" if len(distinct) == 1 else f"{len(distinct)} distinct"


if __name__ == "__main__":
    sys.exit(main())
