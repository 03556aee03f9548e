"""A defense in the user's own training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deploy.core.errors import InputError, UsageError
from training.data import ImageSet
from training.defenses import (
    Batch,
    Defense,
    TrainingFacts,
    build_defense,
    require_batch,
)
from training.quantize import Network


class DefendedLoop:
    """The steps of a defense in a loop other than that of :func:`qadtr.train`.

    The loop keeps its optimizer, loss and batches. :meth:`prepare` switches the bit-width and
    patches the batch. :meth:`learn`, called after the loss's backward pass, lets the patches take
    their step.

    Args:
        network: quantized; in training mode while the loop runs.
        images: the training set; patches of single images are stored by the image's index in it.
        defense: a name, or a table with its settings: ``{"name": "qadtr", "sizes_px": [5]}``.
        steps: of the whole training.
        seed: of everything that the defense draws.

    Raises:
        InputError: an unknown defense or setting, or images that the network does not take.

    Example:
        >>> network = qadtr.quantize(module, torch.zeros(1, 3, 16, 24), bits=(32, 8, 4))
        >>> defense = {"name": "qadtr", "sizes_px": [4], "personal_px": 4}
        >>> loop = qadtr.DefendedLoop(network, training_set, defense, steps=6)
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        >>> for step in range(6):
        ...     indices = torch.arange(32)
        ...     pixels = torch.from_numpy(training_set.images[:32]).float()
        ...     labels = torch.from_numpy(training_set.labels[:32])
        ...     pixels = loop.prepare(step, pixels, labels, indices)
        ...     logits = network(pixels)
        ...     torch.nn.functional.cross_entropy(logits, labels).backward()
        ...     loop.learn(logits)
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> network.bit_width, tuple(pixels.shape)
        (4, (32, 3, 16, 24))
    """

    def __init__(
        self,
        network: Network,
        images: ImageSet,
        defense: str | Mapping[str, Any] = "qadtr",
        *,
        steps: int,
        seed: int = 0,
    ) -> None:
        channels, height, width = images.images.shape[1:]
        if network.plan.input_shape != (channels, height, width):
            raise InputError(
                f"the network takes images of {network.plan.input_shape}, got "
                f"{(channels, height, width)}"
            )
        self.network = network
        self._about: tuple[int, Batch, Tensor] | None = None
        self._began = False
        table = {"name": defense} if isinstance(defense, str) else dict(defense)
        self.defense: Defense = build_defense(
            table,
            TrainingFacts(
                images=len(images),
                image_size=(height, width),
                channels=channels,
                classes=len(images.classes),
                steps=steps,
                seed=seed,
                bit_widths=network.bit_widths,
                device=next(network.parameters()).device,
            ),
        )

    def prepare(self, step: int, pixels: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Switch the network's bit-width, and patch the images that it is then trained on.

        Args:
            step: 0-based.
            pixels: float32 N×C×H×W of 0…255, after augmentation.
            labels: int64 (N,).
            indices: int64 (N,), of the images in the training set.

        Returns:
            float32 N×C×H×W of 0…255; its gradient is what the patches learn from.

        Raises:
            InputError: the first batch is so small that none of its images would be attacked (the
                last of an epoch may be smaller).
        """
        if not self._began:
            require_batch(self.defense.settings, len(labels))
            self._began = True
        self.network.set_bit_width(self.defense.bit_width(step))
        batch = Batch(pixels=pixels, labels=labels, indices=indices)
        shown = self.defense.prepare(step, batch, self.network).detach()
        shown.requires_grad_(self.defense.needs_pixel_gradient)
        self._about = (step, batch, shown)
        return shown

    def learn(self, logits: Tensor) -> None:
        """Add the gradient of the defense's own loss, where it has one, and improve its patches.

        Call it after ``loss.backward()`` and before the optimizer's step.

        Args:
            logits: float N×classes, for the images that :meth:`prepare` returned.

        Raises:
            UsageError: :meth:`prepare` was not called before, or there was no backward pass.
        """
        if self._about is None:
            raise UsageError("learn() comes after prepare() and loss.backward() of the same step")
        (step, batch, shown), self._about = self._about, None
        if self.defense.needs_pixel_gradient and shown.grad is None:
            raise UsageError("learn() needs the gradient of the pixels; call loss.backward() first")
        extra = self.defense.extra_loss(step, batch, shown.detach(), self.network)
        if extra is not None:
            extra.backward()
        self.defense.learn(step, shown.grad, logits.detach(), batch)
        # Anything else that takes gradients from the network, such as an attack in the loop, gets
        # them without noise.
        self.network.switch.gradient_noise = 0.0

    def patches(self) -> Mapping[str, Mapping[str, Any]]:
        """The universal patches so far, by name, as arrays in the form of supplied patches."""
        return self.defense.patch_files()
