"""Ask ONNX Runtime's QNN provider which nodes of an ONNX file run on Qualcomm's HTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.core.files import write_atomic
from deploy.core.scratch import Scratch
from deploy.onnxruntime_qnn import QnnAssignment, ask_qnn
from export.certificate import bytes_of, refuse_qonnx
from export.engine_graph import node_names_made_unique
from export.graph import fix_inputs, graph_inputs, input_dims
from export.reading import read_model
from export.sample import noise_for


def qnn_assignment(
    model: Path | str,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    open_size: int = 32,
) -> QnnAssignment:
    """Return which nodes of a file the QNN provider takes, in which type, and why not the others.

    The provider supports no open dimension, so those of the inputs are fixed in a copy, the number
    of images to 1. Nothing is run, and no Snapdragon is needed.

    Args:
        model: the ONNX file.
        shapes: of inputs by name.
        open_size: length of an open dimension that ``shapes`` does not name.

    Raises:
        InputError: the file is damaged, or the provider refuses it as a whole.
        EngineUnavailable: onnxruntime-qnn is not installed.
    """
    path = Path(model)
    read = read_model(path)
    refuse_qonnx(read, path)
    node_names_made_unique(read)
    given = dict(shapes or {})
    open_count = {one.name for one in graph_inputs(read) if input_dims(one)[:1] == (None,)}
    fixed = {
        name: (1, *noise.shape[1:]) if name in open_count - given.keys() else noise.shape
        for name, noise in noise_for(read, open_size=open_size, shapes=given).items()
    }
    fix_inputs(read, fixed)
    with Scratch() as folder:
        file = folder / path.name
        write_atomic(file, bytes_of(read, path))
        return ask_qnn(file, name=path.name)
