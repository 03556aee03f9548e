"""What every fake defense shares: it is a network with a bit-width switch, like what it wraps."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, ClassVar, cast

from torch import nn

from eval.attacks.predictions import SwitchableNetwork


class Wrapper(nn.Module):
    """A network behind a fake defense; ``network`` is the real one.

    ``forward`` takes pixel values 0…255, float N×3×H×W, and gives float N×classes.
    """

    name: ClassVar[str]

    def __init__(self, network: SwitchableNetwork) -> None:
        super().__init__()
        self.network = cast(nn.Module, network)
        self.train(network.training)

    def at(self, bits: int) -> AbstractContextManager[Any]:
        """The real network at a bit-width, inside a ``with`` block."""
        return cast(SwitchableNetwork, self.network).at(bits)
