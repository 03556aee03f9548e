"""An open engine in place of a source network, for attacks that need no gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from deploy.core.engine_protocol import Engine
from deploy.core.errors import InputError
from deploy.core.model_engine import run_all


class EngineNetwork:
    """A ``SwitchableNetwork`` that has one bit-width and no gradient: the model as it ships.

    Pixels are rounded to the bytes that the engine takes. ``differentiable`` is False, which the
    attacks check.
    """

    differentiable = False

    def __init__(self, engine: Engine, bits: int, file_sha256: str) -> None:
        """Wrap an open engine.

        Args:
            engine: open; whoever opened it closes it.
            file_sha256: of the model file; a resumed attack must use the same file.
        """
        self._engine = engine
        self._bits = bits
        self._sha256 = file_sha256
        self.training = False

    def __call__(self, pixels: Tensor, /) -> Tensor:
        """Logits, float32 N×C, of pixel values 0…255, N×3×H×W."""
        images = pixels.detach().round().clamp(0, 255).to(torch.uint8).cpu().contiguous().numpy()
        return torch.from_numpy(run_all(self._engine, images))

    @contextmanager
    def at(self, bits: int) -> Iterator[Self]:
        """The engine, if it runs this bit-width.

        Raises:
            InputError: the bit-width is not the model's.
        """
        if bits != self._bits:
            raise InputError(
                f"the engine runs a {self._bits}-bit model, an attack at {bits} bits needs another "
                "file"
            )
        yield self

    def train(self, mode: bool = True) -> Self:
        """As in torch; an engine only evaluates."""
        if mode:
            raise InputError("an engine has no training mode")
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        """An empty sequence: an engine has no visible parameters."""
        return iter(())

    def state_dict(self) -> Mapping[str, Any]:
        """The hash of the model file, as bytes."""
        digest = bytes.fromhex(self._sha256)
        return {"file_sha256": torch.tensor(list(digest), dtype=torch.uint8)}
