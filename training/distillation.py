"""The wider bit-width teaches the narrower: one set of weights, one teacher more.

At a step at bit-width b the loss of an image with label y is

    (1 - w) CE(f_b(x), y) + w T² KL(softmax(f_t(x') / T) || softmax(f_b(x) / T)),

with t the teacher's bit-width, w ``weight``, T ``temperature``.  x is what the defense made of the
image x' (patched or not): the teacher looks at the image without the patch, so that a patched image
is taught what the clean one is.  The teacher is the same network at t, a constant, with BatchNorm's
statistics of this batch, as the student has: the running ones lag behind weights that all
bit-widths move, and a teacher with those is wrong more often than its student.  Its forward pass,
without a backward one, moves nothing.  The widest bit-width has no teacher, nor has any before its
teacher has been trained at once.

References:
    Yu et al., Any-Precision Deep Neural Networks, AAAI 2021 (the next wider bit-width teaches).
    Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015 (the temperature).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import DistillationSettings
from training.frozen import frozen_statistics
from training.quantize import Network
from training.quantizers import LearnedScale


def teacher_of(network: Network, settings: DistillationSettings) -> int | None:
    """The bit-width that teaches the active one; None where there is none, or none yet."""
    wider = [bits for bits in network.bit_widths if bits > network.bit_width]
    if settings.weight == 0.0 or not wider:
        return None
    teacher = wider[0] if settings.teacher == "widest" else wider[-1]
    scales = (m for m in network.modules() if isinstance(m, LearnedScale))
    return teacher if all(scale.is_ready(teacher) for scale in scales) else None


@torch.no_grad()
def teacher_logits(network: Network, teacher: int, pixels: Tensor) -> Tensor:
    """What ``network`` at ``teacher`` bits says of ``pixels`` (float32 N×3×H×W, [0, 255])."""
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
