"""Images for a run whose result does not matter: noise of the size that a model file takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.device.errors import InputError
from export.reading import graph_inputs, input_dims, read_model

SAMPLE_IMAGES = 8


def sample_for(model: Path, *, open_size_px: int) -> NDArray[np.uint8]:
    """Uniform noise, uint8 8×3×H×W, always the same, for the model's only input.

    Args:
        model: the ONNX file.
        open_size_px: H and W where the file leaves them open.

    Raises:
        InputError: the file is damaged, or has no input N×3×H×W.
    """
    inputs = graph_inputs(read_model(model))
    dims = input_dims(inputs[0]) if len(inputs) == 1 else ()
    if len(dims) != 4 or dims[1] not in (3, None) or open_size_px < 1:
        raise InputError(
            f"{model}: expected one input of images N×3×H×W, found "
            f"{', '.join(f'{item.name} {list(input_dims(item))}' for item in inputs) or 'none'}"
        )
    height, width = (dim or open_size_px for dim in dims[2:])
    shape = (SAMPLE_IMAGES, 3, height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
