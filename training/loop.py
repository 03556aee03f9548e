"""The training loop: SGD over one set of weights, a defense's choice of bit-width at each step.

All randomness is a pure function of (seed, step), so the state of a run is its tensors: network,
momentum and the defense's patches.  They are written in one atomic file, and a run that resumes
from it ends with the same bytes as one that was never interrupted (same machine, same threads).
"""

from __future__ import annotations

import copy
import logging
import math
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deploy.core.errors import InputError, QadtrError
from deploy.core.files import json_bytes, sha256_of_bytes, write_npz
from deploy.core.signals import Interrupted, StopAsked
from training.batches import Batches
from training.checkpoint import CHECKPOINT, RESUME, RunState, read_run_state, save_checkpoint
from training.config import TrainingConfig
from training.course import Course
from training.data import ImageSet
from training.data.image_set import require_holdout_of
from training.data.subset import chosen_indices
from training.defenses import Defense, TrainingFacts, build_defense, resolved
from training.distillation import Teaching, distilled
from training.frozen import frozen_statistics, image_losses
from training.network_spec import NetworkSpec
from training.optimizer import MovingAverage, learning_rate, optimizer_of
from training.prediction import predict
from training.quantize import Network
from training.ranks import Ranks, check_batch
from training.run_lock import require_free, run_lock
from training.run_log import RunLog
from training.run_start import RunStart, read_start
from training.starting import starting_network
from training.tensors import load_tensors, persistent_tensors, tensor_bytes

logger = logging.getLogger(__name__)

POOL = "pool"
"""Folder of the patches that the defense made, to attack other networks with."""


WATCHED = 2000
"""Hold-out images, at most, that the accuracy after each epoch is of: within 2.2 points of that of
all of them (95%), for a small share of the epoch's time."""


class TrainingDiverged(QadtrError):
    """The loss stopped being a finite number; the message names the step."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run, as opposed to what to train.

    ``resume`` continues from the run's last saved state; without it an existing run is replaced if
    ``overwrite``, else refused.  A state is saved every ``save_every`` steps and after
    ``save_seconds``, whichever comes first.  None of these nor ``progress`` (shown or not) changes
    a byte of the checkpoint.  Another ``device`` rounds differently, so its weights differ.
    ``stop_after`` ends the run at that step without a checkpoint, as an interruption would.
    ``data`` and ``cache`` are the folders that the images came from; ``in_memory`` means that they
    came from no folder.  The run's folder records them.
    """

    resume: bool = False
    overwrite: bool = True
    save_every: int = 500
    save_seconds: float = 300.0
    device: str = "cpu"
    stop_after: int | None = None
    progress: bool = True
    data: Path | None = None
    cache: Path | None = None
    in_memory: bool = False


def train(
    config: TrainingConfig,
    training_set: ImageSet,
    holdout: ImageSet,
    run_dir: Path,
    options: RunOptions,
    make_provenance: Callable[[], dict[str, Any]],
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    network: Network | None = None,
) -> Path:
    """Train one network; returns the path of its checkpoint in ``run_dir``.

    Args:
        network: to start from, left unchanged; None builds the network that ``config`` names.

    Raises:
        InputError: config and data do not fit, the state to resume from belongs to another run, or
            another training writes into the folder.
        UsageError: the folder holds a run, and neither resuming nor replacing was requested.
        TrainingDiverged: the loss is NaN or infinite.
        RanksDiffer: two processes hold different weights.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the state of the last whole step is saved.
    """
    run = TrainingRun(config, training_set, holdout, run_dir, options, ranks, network)
    return run.finish(make_provenance)


class TrainingRun:
    """One training run; its methods are the stages of :func:`train`."""

    def __init__(
        self,
        config: TrainingConfig,
        training_set: ImageSet,
        holdout: ImageSet,
        run_dir: Path,
        options: RunOptions,
        ranks: Ranks = Ranks(),  # noqa: B008  frozen
        network: Network | None = None,
    ) -> None:
        require_holdout_of(training_set, holdout)
        channels, *size = training_set.images.shape[1:]
        image_size = (size[0], size[1])
        config = resolved(config, image_size)
        self.config, self.options, self.run_dir = config, options, run_dir
        self.ranks = ranks
        self.training_set, self.holdout = training_set, holdout
        chosen = chosen_indices(len(holdout), min(WATCHED, len(holdout)))
        self.watched = chosen
        self.device = torch.device(options.device)
        settings = config.training
        count = len(training_set)
        if count < settings.batch_size:
            raise InputError(
                f"training.batch_size is {settings.batch_size}, but there are only {count} "
                "training images; lower it"
            )
        check_batch(settings.batch_size, settings.accumulate, ranks)
        self.batches = Batches(training_set, config, self.device)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.steps = max(1, round(settings.epochs * self.steps_per_epoch))
        spec = NetworkSpec.of(
            config.network,
            classes=len(training_set.classes),
            image_size=image_size,
        )
        # None of a run of an earlier version, too.
        self.start = read_start(run_dir) if options.resume else None
        self.starting = starting_network(
            config, spec, channels, network=network, start=self.start, run_dir=run_dir
        )
        self.network = self.starting.network.to(self.device)
        if settings.autocast == "bf16":
            self.network.set_products(torch.bfloat16)
        # By itself: torch's stubs know no memory format beside a device.
        cast(Any, self.network).to(memory_format=torch.channels_last)
        self.parameters = dict(self.network.named_parameters())
        self.tensors = persistent_tensors(self.network)
        self.teaching = Teaching(config.distillation, self.network, trained=self.starting.trained)
        self.optimizer = optimizer_of(self.parameters, settings)
        self.average = MovingAverage(self.tensors, settings.ema) if settings.ema > 0.0 else None
        self.defense: Defense = build_defense(
            config.defense,
            TrainingFacts(
                images=count,
                image_size=image_size,
                channels=channels,
                classes=spec.classes,
                steps=self.steps,
                seed=config.seed,
                bit_widths=spec.bit_widths,
                device=self.device,
            ),
        )
        identity = {
            "config": config.as_dict(),
            "data": training_set.digest,
            **self.starting.identity(),
        }
        if ranks.count > 1:  # BatchNorm is over a rank's slice
            identity["ranks"] = ranks.count
        self.digest = sha256_of_bytes(json_bytes(identity))
        self.step = 0
        self.course = Course()
        self.stop = StopAsked()
        self.stopping = False

    def finish(self, make_provenance: Callable[[], dict[str, Any]]) -> Path:
        """Run all remaining steps, evaluate on the hold-out, write the checkpoint."""
        with run_lock(self.run_dir) if self.ranks.first else nullcontext():
            return self._finish(make_provenance)

    def _finish(self, make_provenance: Callable[[], dict[str, Any]]) -> Path:
        if self.options.resume:
            if self.start is not None:
                self.start.require_same(self.config, self.training_set.digest, self.run_dir)
            self._resume()
        elif self.ranks.first:
            if not self.options.overwrite:
                require_free(self.run_dir)
            # An earlier training's weights or patches must not be taken for this one's before it
            # has ended.
            for name in (CHECKPOINT, Path(CHECKPOINT).with_suffix(".json"), RESUME):
                (self.run_dir / name).unlink(missing_ok=True)
            for patches in (self.run_dir / POOL).glob("*.npz"):
                patches.unlink()
            self._started().write(self.run_dir)
        images_per_s = self._steps()
        if self.step < self.steps:
            logger.info("stopped at step %d of %d; --resume continues", self.step, self.steps)
            return self.run_dir / RESUME
        if self.average is not None:
            load_tensors(self.network, self.average.tensors, "the moving average")
        untrained = self.network.untrained()
        if untrained:
            logger.warning(
                "never trained at %s bits, so the checkpoint is not usable there; train longer, "
                "or leave them out of network.bit_widths",
                ", ".join(map(str, untrained)),
            )
        self.network.for_evaluation()
        path = self.run_dir / CHECKPOINT
        if not self.ranks.first:
            self.ranks.wait()
            return path
        clean = _accuracies(self.network, self.holdout.images, self.holdout.labels)
        known = self.starting.warm_start_sha256
        warm_start = {} if known is None else {"warm_start_sha256": known}
        save_checkpoint(
            path,
            self.network,
            {
                "classes": list(self.training_set.classes),
                "config": self.config.published(),
                **warm_start,
                "data": {"name": self.training_set.name, "digest": self.training_set.digest},
                "history": self.course.history,
                "images_per_s": images_per_s,
                "holdout_accuracy": clean,
                "provenance": make_provenance(),
            },
        )
        for name, arrays in self.defense.patch_files().items():
            write_npz(self.run_dir / POOL / f"{name}.npz", arrays)
        for bits, accuracy in clean.items():
            logger.info("hold-out accuracy at %s bits: %.2f%%", bits, 100.0 * accuracy)
        self.ranks.wait()
        return path

    def _started(self) -> RunStart:
        """What resuming from any folder needs to know."""
        options = self.options
        return RunStart(
            config=self.config.as_dict(),
            data=None if options.data is None else options.data.resolve(),
            cache=None if options.cache is None else options.cache.resolve(),
            images_sha256=self.training_set.digest,
            # The number of the GPU differs between processes.
            device=options.device if self.ranks.count == 1 else options.device.partition(":")[0],
            save_every=options.save_every,
            in_memory=options.in_memory,
            network=self.starting.given,
            warm_start_sha256=self.starting.warm_start_sha256,
        )

    def _so_far(self) -> dict[str, float]:
        """Hold-out accuracy, by bit-width, of the weights that a checkpoint would have now, on at
        most :data:`WATCHED` images; measured on a copy, so that no byte of the training changes."""
        network = copy.deepcopy(self.network)
        if self.average is not None:
            load_tensors(network, self.average.tensors, "the moving average")
        images, labels = self.holdout.images[self.watched], self.holdout.labels[self.watched]
        return _accuracies(network.for_evaluation(), images, labels)

    def _steps(self) -> float | None:
        """Train to the end; returns the images/s of the last epoch."""
        self.network.train()
        if self.ranks.count > 1:
            self.ranks.require_same(tensor_bytes(self.state(), {}), "the weights to start from")
        last = min(self.steps, self.options.stop_after or self.steps)
        saved_at, saved_step = time.monotonic(), self.step
        with (
            self.stop,
            RunLog(
                self.run_dir,
                self.config.name,
                self.course,
                done=self.step,
                steps=self.steps,
                first=self.ranks.first,
                progress=self.options.progress,
            ) as log,
        ):
            while self.step < last and not self.stopping:
                log.step(*self.one_step(), self.config.training.batch_size)
                if self.step % self.steps_per_epoch == 0 or self.step == self.steps:
                    if self.ranks.count > 1:
                        self.ranks.require_same(
                            tensor_bytes(self.state(), {}), "weights or patches"
                        )
                    log.epoch(self.step, self.step / self.steps_per_epoch, self._so_far)
                due = time.monotonic() - saved_at >= self.options.save_seconds
                due |= self.step % self.options.save_every == 0
                if due or self.step == last or self.stopping:
                    self._save()
                    saved_at, saved_step = time.monotonic(), self.step
        if self.stopping:
            assert saved_step == self.step
            raise self._interrupted()
        return log.images_per_s

    def _interrupted(self) -> Interrupted:
        number = self.stop.by or signal.SIGTERM  # another rank's
        return Interrupted(
            number,
            f"interrupted by {signal.Signals(number).name} after step {self.step} of "
            f"{self.steps}; the state is saved in {self.run_dir / RESUME}, and --resume "
            "continues from it",
        )

    def one_step(self) -> tuple[float, float]:
        """One step of the optimizer; returns the training loss and the accuracy of its batch.

        Raises:
            TrainingDiverged: a loss is NaN or infinite.
        """
        network, settings = self.network, self.config.training
        network.set_bit_width(self.defense.bit_width(self.step))
        batch = self.batches.at(self.step // self.defense.replays, self.losses)
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
        value, self.stopping = self._share(value, self.stop.by is not None)
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
        return value, float((logits.argmax(dim=1) == batch.labels).float().mean())

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

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the run continues from."""
        tensors = {f"network.{n}": t for n, t in self.tensors.items()}
        for name, parameter in self.parameters.items():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        tensors |= {f"defense.{n}": t for n, t in self.defense.state().items()}
        if self.average is not None:
            tensors |= {f"average.{n}": t for n, t in self.average.tensors.items()}
        return tensors | {f"teacher.{n}": t for n, t in self.teaching.state().items()}

    def _save(self) -> None:
        if self.ranks.first:
            state = self.state()
            RunState(run=self.digest, step=self.step, course=self.course, tensors=state).write(
                self.run_dir
            )

    def _resume(self) -> None:
        found = read_run_state(self.run_dir, self.digest)
        load_tensors(self.network, found.of("network"), str(self.run_dir / RESUME))
        momentum = found.of("momentum")
        for name, parameter in self.parameters.items():
            if name in momentum:
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.defense.load_state(found.of("defense"))
        if self.average is not None:
            self.average.load_state(found.of("average"))
        self.teaching.load_state(found.of("teacher"), str(self.run_dir / RESUME))
        self.step, self.course = found.step, found.course
        logger.info("resumed at step %d of %d", self.step, self.steps)


def _accuracies(
    network: Network, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Share of the images that a network in evaluation mode classifies correctly, by bit-width."""
    return {
        str(bits): float((predict(network, images, bits) == labels).mean())
        for bits in network.bit_widths
    }
