"""The Adversarial Robustness Toolbox's pixel attacks on a network at one bit-width.

ART works with torch alone (its patch attacks need torchvision, these do not). The gradient goes
through the fake-quantized network: rounding passes it straight through, clipping stops it, as in
training. ``autoattack-deepfool`` is ART's ``AutoAttack``: APGD on cross-entropy, APGD on the
difference-of-logits ratio, DeepFool in place of the paper's FAB, and Square; each is tried on
the images that resisted the attacks before it.

ART draws from numpy's global generator, which :func:`perturbed` seeds and restores.
"""

from __future__ import annotations

import importlib
import logging
import logging.config
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.core.errors import InputError
from deploy.core.images import check_images
from deploy.core.installing import install_command
from eval.attacks.pixel.pixel_settings import PixelSettings
from eval.attacks.predictions import evaluation_mode
from training.prediction import SwitchableNetwork, device_of

_WHITE = 255.0

LIBRARY = "adversarial-robustness-toolbox"


class AtBitWidth(nn.Module):
    """A network held at one bit-width, as a module from unit pixels to logits.

    The library's constants (C&W's trade-off, DeepFool's overshoot) are made for pixels in 0…1.
    """

    def __init__(self, network: SwitchableNetwork, bits: int) -> None:
        super().__init__()
        # Not registered: the library must neither move nor save what belongs to the caller.
        self._held = (network, bits)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits, float N×C, of pixels 0…1, N×3×H×W."""
        network, bits = self._held
        with network.at(bits):
            logits: Tensor = network(pixels * _WHITE)
        return logits


def perturbed(
    network: SwitchableNetwork,
    bits: int,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    settings: PixelSettings,
    *,
    classes: int,
    seed: int,
) -> NDArray[np.uint8]:
    """The images after the attack, in bytes: uint8 N×3×H×W.

    An image has no pixel values between two bytes, so the library's result is rounded to the
    nearest byte; since ``epsilon`` is whole, it stays in the ball.

    Args:
        images: uint8 N×3×H×W.
        labels: int64 N.

    Raises:
        InputError: the library is not installed, or it left the ball.
    """
    check_images(images)
    with evaluation_mode(network), _numpy_seeded(seed):
        classifier = art_classifier(AtBitWidth(network, bits), images.shape[1:], classes, network)
        attack = _attack(classifier, settings)
        found = attack.generate(x=images.astype(np.float32) / _WHITE, y=labels)
    result: NDArray[np.uint8] = np.rint(np.clip(found, 0.0, 1.0) * _WHITE).astype(np.uint8)
    if settings.attack != "cw":
        moved = int(np.abs(result.astype(np.int16) - images.astype(np.int16)).max())
        if moved > settings.epsilon:
            raise InputError(
                f"{settings.attack} moved a pixel by {moved}, the ball's radius is "
                f"{settings.epsilon:g}"
            )
    return result


def load_library() -> None:
    """Import ART without the logging that it sets up for the whole process.

    Its ``__init__`` calls ``logging.config.dictConfig``, which shuts down every existing handler:
    the program's own, and absl's (which TensorBoard brings), which closes its stream when it is
    closed.

    Raises:
        InputError: it is not installed.
    """
    configure = logging.config.dictConfig
    logging.config.dictConfig = lambda config: None
    try:
        importlib.import_module("art")
    except ImportError as error:
        raise InputError(
            f"pixel attacks need {LIBRARY} ({error}); install it: {install_command('eval')}"
        ) from error
    finally:
        logging.config.dictConfig = configure


def art_classifier(
    module: nn.Module, input_shape: tuple[int, ...], classes: int, network: SwitchableNetwork
) -> Any:
    """The library's classifier around a module that takes pixels 0…1."""
    load_library()
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=module,
        loss=nn.CrossEntropyLoss(),
        input_shape=input_shape,
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if device_of(network) == torch.device("cpu") else "gpu",
    )


def _attack(classifier: Any, settings: PixelSettings) -> Any:
    from art.attacks import evasion

    radius = settings.epsilon / _WHITE
    step = radius / 4 if settings.step_size is None else settings.step_size / _WHITE
    size = {"batch_size": settings.batch_size}
    ball = {"norm": np.inf, "eps": radius, **size}
    steps = {"max_iter": settings.steps, "verbose": False}
    if settings.attack == "fgsm":
        return evasion.FastGradientMethod(classifier, eps_step=radius, **ball)
    if settings.attack == "pgd":
        return evasion.ProjectedGradientDescent(
            classifier, eps_step=step, num_random_init=settings.restarts, **steps, **ball
        )
    if settings.attack == "mi-fgsm":
        return evasion.MomentumIterativeMethod(
            classifier, eps_step=step, decay=1.0, **steps, **ball
        )
    if settings.attack == "cw":
        # From 1 instead of 0.01, which takes five searches to get anywhere; the confidence
        # carries the least change over the rounding to bytes.
        const = {"initial_const": 1.0, "binary_search_steps": 3, "confidence": 0.5}
        return evasion.CarliniL2Method(classifier, **const, **steps, **size)
    ascents = [
        evasion.AutoProjectedGradientDescent(
            classifier,
            eps_step=radius / 2,
            nb_random_init=settings.restarts,
            loss_type=loss,
            **steps,
            **ball,
        )
        for loss in ("cross_entropy", "difference_logits_ratio")
    ]
    others = [
        evasion.DeepFool(classifier, **steps, **size),
        evasion.SquareAttack(classifier, max_iter=settings.queries, verbose=False, **ball),
    ]
    return evasion.AutoAttack(classifier, eps_step=radius / 2, attacks=ascents + others, **ball)


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)
