"""Run a QONNX file in the ``qonnx`` package itself, node by node.

``qonnx`` runs standard operators as models of one node, which it writes in the newest IR version
that ``onnx`` knows. ONNX Runtime 1.31 reads up to 13 and onnx 1.23 writes 14, so its executor stops
at the first of them.  During the call, its model maker gets a version that can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from qonnx.core import onnx_exec
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model

from deploy.core.files import write_atomic
from export.graph_builder import model_bytes
from export.reading import read_model

READABLE_IR_VERSION = 10


@contextmanager
def _readable_models() -> Iterator[None]:
    make_model = onnx_exec.qonnx_make_model

    def readable(*arguments: Any, **settings: Any) -> onnx.ModelProto:
        model = cast(onnx.ModelProto, make_model(*arguments, **settings))
        model.ir_version = min(model.ir_version, READABLE_IR_VERSION)
        return model

    onnx_exec.qonnx_make_model = readable
    try:
        yield
    finally:
        onnx_exec.qonnx_make_model = make_model


def clean_qonnx(path: Path, out: Path) -> Path:
    """Write the result of ``qonnx-cleanup`` on a QONNX file to ``out``; returns ``out``.

    Raises:
        InputError: the file is damaged.
    """
    with _readable_models():
        cleaned = cleanup_model(ModelWrapper(read_model(path)))
    write_atomic(out, model_bytes(cleaned.model))
    return out


def execute_qonnx(path: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of a QONNX file (batch 1) in the ``qonnx`` executor, float32 N×classes, for images
    uint8 N×3×H×W, one at a time.

    Raises:
        InputError: the file is damaged.
    """
    model = ModelWrapper(read_model(path))
    name = model.graph.input[0].name
    with _readable_models():
        rows = [
            onnx_exec.execute_onnx(model, {name: image[None].astype(np.float32)})
            for image in images
        ]
    return np.concatenate([next(iter(row.values())) for row in rows]).astype(np.float32)
