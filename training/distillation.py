"""A wider bit-width, or the network that the training started from, teaches a bit-width.

At a step at bit-width b the loss of an image with label y is

    (1 - w) CE(f_b(x), y) + w T² KL(softmax(f_t(x') / T) || softmax(f_b(x) / T)),

with f_t the teacher, a constant, w ``weight``, T ``temperature``.  x is the image x' after
``data.masks`` and the defense; the teacher sees x' itself, without grey squares and patches, so
that the student learns to answer for a covered image as for the bare one.

With ``teacher`` "next" or "widest", the teacher is the same network at a wider bit-width t, with
BatchNorm statistics of this batch, like the student.  The running statistics lag behind weights
that all bit-widths update, and a teacher with those is wrong more often than its student.  The
teacher has a forward pass and no backward pass, and changes nothing.  The widest bit-width has no
teacher, and no bit-width has one before its teacher has been trained at least once.  With "start",
the teacher is the float network with which the training started, in evaluation mode, and it teaches
every bit-width, float included.

References:
    Yu et al., Any-Precision Deep Neural Networks, AAAI 2021 (the next wider bit-width teaches).
    Mishra and Marr, Apprentice, ICLR 2018 (a trained float network teaches one of few bits).
    Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015 (the temperature).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from deploy.core.bit_widths import FLOAT
from deploy.core.errors import InputError
from training.config import DistillationSettings
from training.frozen import frozen_statistics
from training.quantize import Network
from training.tensors import load_tensors, persistent_tensors


class Teaching:
    """The teacher of one training.

    Args:
        settings: which teacher, with which weight.
        network: as it is before the first step of the training.
        trained: whether its weights are trained and not freshly drawn.

    Raises:
        InputError: there is no wider bit-width to teach; or the network of the start should teach,
            but is not trained or has no float mode.
    """

    def __init__(self, settings: DistillationSettings, network: Network, *, trained: bool) -> None:
        self.settings = settings
        self._start: Network | None = None
        if settings.weight == 0.0:
            return
        if settings.teacher != "start":
            if len(network.bit_widths) < 2:
                raise InputError(
                    f'distillation.teacher = "{settings.teacher}" needs a wider bit-width: '
                    f"network.bit_widths are {list(network.bit_widths)}"
                )
            return
        if not trained:
            raise InputError(
                'distillation.teacher = "start" needs a trained network to start from; give one '
                "in training.warm_start or training.weights"
            )
        if FLOAT not in network.bit_widths:
            raise InputError(
                f'distillation.teacher = "start" is the float network; add {FLOAT} to '
                f"network.bit_widths, which are {list(network.bit_widths)}"
            )
        self._start = copy.deepcopy(network).for_evaluation().requires_grad_(False)
        self._start.set_bit_width(FLOAT)

    def logits(self, network: Network, pixels: Tensor) -> Tensor | None:
        """The teacher's logits for ``pixels`` (float32 N×3×H×W, [0, 255]) at the active bit-width:
        constant, N×classes; None where there is no teacher, or none yet."""
        if self._start is not None:
            with torch.no_grad():
                return cast(Tensor, self._start(pixels))
        wider = teacher_of(network, self.settings)
        return None if wider is None else teacher_logits(network, wider, pixels)

    def state(self) -> dict[str, Tensor]:
        """The tensors that a run continues from."""
        return {} if self._start is None else persistent_tensors(self._start)

    def load_state(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Continue from :meth:`state`; InputError naming ``where`` if it belongs to another
        network."""
        if self._start is not None:
            load_tensors(self._start, tensors, where)


def teacher_of(network: Network, settings: DistillationSettings) -> int | None:
    """The wider bit-width that teaches the active one; None where there is none, or none yet."""
    wider = [bits for bits in network.bit_widths if bits > network.bit_width]
    if settings.weight == 0.0 or not wider:
        return None
    teacher = wider[0] if settings.teacher == "widest" else wider[-1]
    return teacher if network.is_ready(teacher) else None


@torch.no_grad()
def teacher_logits(network: Network, teacher: int, pixels: Tensor) -> Tensor:
    """The logits of ``network`` at ``teacher`` bits for ``pixels`` (float32 N×3×H×W, [0, 255])."""
    with frozen_statistics(network, of_batch=True), network.at(teacher):
        return network(pixels)


def distilled(
    loss: Tensor, logits: Tensor, taught: Tensor, settings: DistillationSettings
) -> Tensor:
    """``loss``, a mean over images, mixed with the teacher's part; logits N×classes both."""
    temperature = settings.temperature
    divergence = F.kl_div(
        (logits / temperature).log_softmax(dim=1),
        (taught / temperature).log_softmax(dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return (1.0 - settings.weight) * loss + settings.weight * temperature**2 * divergence
