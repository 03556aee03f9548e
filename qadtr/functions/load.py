"""`qadtr.load`: the run in a folder."""

from __future__ import annotations

from pathlib import Path

from training.data import Images
from training.run_folder import RunFolder


def load(run: Path | str, images: Images | None = None) -> RunFolder:
    """The run in a folder that `qadtr train` or :meth:`RunFolder.from_network` wrote.

    Args:
        run: the folder; it needs none of the code of the network that was quantized.
        images: a data folder, or sets in memory, for later calls on the run; None takes the folder
            that it was trained on, if the run records one.

    Returns:
        The run: ``run.load_network()`` is its network in evaluation mode, ``run.bit_widths``,
        ``run.classes`` and ``run.model_file(bits)`` describe its contents.

    Raises:
        InputError: there is no such folder, or it has no complete checkpoint.

    Example:
        >>> run = qadtr.load("runs/own", [training_set, test_set])
        >>> network = run.load_network()
        >>> with network.at(4):
        ...     network(torch.zeros(2, 3, 16, 24)).shape
        torch.Size([2, 3])
    """
    return RunFolder.open(Path(run), data=images)
