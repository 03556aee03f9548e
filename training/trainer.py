"""The steps of a training: SGD over one set of weights, each at a bit-width the defense chooses.

All randomness is a pure function of (seed, step), so what a training continues from is its tensors:
network, momentum, moving average, the defense's patches and the teacher.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploy.core.errors import InputError, QadtrError
from deploy.core.signals import StopAsked
from training.batches import Batches
from training.checkpoint import RunState
from training.config import TrainingConfig
from training.data import ImageSet
from training.defenses import Defense, TrainingFacts, build_defense, resolved
from training.distillation import Teaching, distilled
from training.frozen import frozen_statistics, image_losses
from training.optimizer import MovingAverage, learning_rate, optimizer_of
from training.quantize import Network
from training.ranks import Ranks, check_batch
from training.starting import Starting, starting_network
from training.tensors import load_tensors, persistent_tensors


class TrainingDiverged(QadtrError):
    """The loss stopped being a finite number; the message names the step."""


class Taken(NamedTuple):
    """What a step found: the training loss and the accuracy of its batch, and whether any rank was
    asked to stop."""

    loss: float
    accuracy: float
    stop: bool


class Trainer:
    """Network, optimizer, defense and teacher, one step after the other.

    It holds all that a step changes, and knows nothing of files: :mod:`training.loop` saves it,
    resumes it and writes the checkpoint.

    Args:
        config: of the training; the attribute has every setting of the defense written out.
        training_set: images, uint8 N×C×H×W.
        starting: the network before its first step; None builds what ``config`` names.
        device: torch device of the steps.
        ranks: the processes that share each batch.

    Raises:
        InputError: the batch does not fit the images or the ranks, the defense does not fit the
            images, or a file that ``config`` starts from does not fit the network.

    Example:
        >>> trainer = Trainer(config, images)  # doctest: +SKIP
        >>> losses = [trainer.one_step().loss for _ in range(trainer.steps)]  # doctest: +SKIP
    """

    def __init__(
        self,
        config: TrainingConfig,
        training_set: ImageSet,
        starting: Starting | None = None,
        device: str = "cpu",
        ranks: Ranks = Ranks(),  # noqa: B008  frozen
    ) -> None:
        channels, height, width = training_set.images.shape[1:]
        config = resolved(config, (height, width))
        settings, count = config.training, len(training_set)
        if count < settings.batch_size:
            raise InputError(
                f"training.batch_size is {settings.batch_size}, but there are only {count} "
                "training images; lower it"
            )
        check_batch(settings.batch_size, settings.accumulate, ranks)
        if starting is None:
            starting = starting_network(config, training_set)
        self.config, self.ranks = config, ranks
        self.device = torch.device(device)
        self.batches = Batches(training_set, config, self.device)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.steps = max(1, round(settings.epochs * self.steps_per_epoch))
        self.network = starting.network.to(self.device)
        if settings.autocast == "bf16":
            self.network.set_products(torch.bfloat16)
        # By itself: torch's stubs know no memory format beside a device.
        cast(Any, self.network).to(memory_format=torch.channels_last)
        self.parameters = dict(self.network.named_parameters())
        self.tensors = persistent_tensors(self.network)
        self.teaching = Teaching(config.distillation, self.network, trained=starting.trained)
        self.optimizer = optimizer_of(self.parameters, settings)
        self.average = MovingAverage(self.tensors, settings.ema) if settings.ema > 0.0 else None
        self.defense: Defense = build_defense(
            config.defense,
            TrainingFacts(
                images=count,
                image_size=(height, width),
                channels=channels,
                classes=len(training_set.classes),
                steps=self.steps,
                seed=config.seed,
                bit_widths=self.network.bit_widths,
                device=self.device,
            ),
        )
        self.network.train()
        self.step = 0

    def one_step(self, asked: StopAsked | None = None) -> Taken:
        """One step of the optimizer.

        Args:
            asked: whether a signal stops this process; looked at near the end of the step.

        Raises:
            TrainingDiverged: a loss is NaN or infinite.
        """
        network, settings = self.network, self.config.training
        network.set_bit_width(self.defense.bit_width(self.step))
        batch = self.batches.at(self.step, self.losses)
        pixels = self.defense.prepare(self.step, batch, network)
        pixels = pixels.detach().contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad(set_to_none=True)
        own = self.ranks.slice_of(len(batch.labels))
        bare = batch.pixels if batch.bare is None else batch.bare
        taught = self.teaching.logits(network, bare[own])
        shown = pixels[own].detach() if self.ranks.count > 1 else pixels.detach()
        shown.requires_grad_(self.defense.needs_pixel_gradient)
        value, logits = self._backward(shown, batch.labels[own], taught)
        # On the whole batch on every rank: the loss uses few of its images.
        extra = self.defense.extra_loss(self.step, batch, pixels, network)
        if extra is not None:
            self._check_finite("the defense's extra loss", float(extra.detach()))
            extra.backward()
        gradient = shown.grad if shown.grad is None else self.ranks.gathered(shown.grad)
        logits = self.ranks.gathered(logits)
        self.defense.learn(self.step, gradient, logits, batch)
        value, stop = self._share(value, asked is not None and asked.by is not None)
        rate = learning_rate(
            settings, self.step, steps=self.steps, steps_per_epoch=self.steps_per_epoch
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        nn.utils.clip_grad_norm_(self.parameters.values(), settings.gradient_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.step)
        self.step += 1
        accuracy = float((logits.argmax(dim=1) == batch.labels).float().mean())
        return Taken(loss=value, accuracy=accuracy, stop=stop)

    @torch.no_grad()
    def losses(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """The loss of each image, (N,), of the network as it would be deployed now."""
        with frozen_statistics(self.network):
            return image_losses(self.network, pixels, labels)

    @torch.no_grad()
    def _share(self, loss: float, stop: bool) -> tuple[float, bool]:
        """Average gradients, statistics and the loss over the ranks; returns the loss, and whether
        ``stop`` was requested on any rank: all of them stop after the same step."""
        if self.ranks.count == 1:
            return loss, stop
        parameters = list(self.parameters.values())
        # A forward pass sets running statistics, and a scale at the first use of its bit-width.
        statistics = [
            tensor
            for name, tensor in self.tensors.items()
            if tensor.is_floating_point()
            and (name not in self.parameters or "scale_" in name.rsplit(".", 1)[-1])
        ]
        mean = torch.tensor([loss, float(stop)], device=self.device)
        sent = [*(p.grad for p in parameters), *statistics, mean]
        shared = self.ranks.average(sent, [*parameters, *statistics, mean])
        for parameter, gradient in zip(parameters, shared, strict=False):
            parameter.grad = gradient
        for tensor, average in zip(statistics, shared[len(parameters) :], strict=False):
            if average is not None:
                tensor.copy_(average)
        assert shared[-1] is not None
        return float(shared[-1][0]), bool(shared[-1][1] > 0.0)

    def _backward(
        self, pixels: Tensor, labels: Tensor, taught: Tensor | None = None
    ) -> tuple[float, Tensor]:
        """Forward and backward of the batch, in one part or several; loss and detached logits.
        ``taught``: the logits of the teacher, where there is one."""
        settings = self.config.training
        parts = settings.accumulate
        size = len(labels) // parts
        value, outputs = 0.0, []
        for start in range(0, len(labels), size):
            part = pixels if parts == 1 else pixels[start : start + size]
            logits = self.network(part)
            own = labels[start : start + size]
            loss = F.cross_entropy(logits, own, label_smoothing=settings.label_smoothing)
            if taught is not None:
                own_taught = taught[start : start + size]
                loss = distilled(loss, logits, own_taught, self.config.distillation)
            if parts > 1:
                loss = loss / parts
            value += float(loss.detach())
            self._check_finite("the loss", value)
            loss.backward()
            outputs.append(logits.detach())
        return value, torch.cat(outputs)

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"{what} is {value} at step {self.step} of {self.steps} "
                f"(bit-width {self.network.bit_width}); lower training.learning_rate"
            )

    def load_average(self, network: Network) -> None:
        """Give the moving average of the weights to a network of this training; nothing where none
        is kept."""
        if self.average is not None:
            load_tensors(network, self.average.tensors, "the moving average")

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the training continues from."""
        tensors = {f"network.{n}": t for n, t in self.tensors.items()}
        for name, parameter in self.parameters.items():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        tensors |= {f"defense.{n}": t for n, t in self.defense.state().items()}
        if self.average is not None:
            tensors |= {f"average.{n}": t for n, t in self.average.tensors.items()}
        return tensors | {f"teacher.{n}": t for n, t in self.teaching.state().items()}

    def load_state(self, found: RunState, source: str) -> None:
        """Continue from a state.

        Args:
            found: of a training of the same config.
            source: the file it was read from, for messages.

        Raises:
            InputError: a tensor is missing, or has another shape.
        """
        load_tensors(self.network, found.of("network"), source)
        momentum = found.of("momentum")
        for name, parameter in self.parameters.items():
            if name in momentum:
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.defense.load_state(found.of("defense"))
        if self.average is not None:
            self.average.load_state(found.of("average"))
        self.teaching.load_state(found.of("teacher"), source)
        self.step = found.step
