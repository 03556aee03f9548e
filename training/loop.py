"""The training loop: a trainer's steps in a run folder, which resumes and ends in a checkpoint.

The state of a run is its trainer's tensors.  They are written in one atomic file, and a run that
resumes from it ends with the same bytes as one that was never interrupted (same machine, same
threads).
"""

from __future__ import annotations

import copy
import logging
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.files import sha256_of_bytes
from deploy.core.npz import write_npz
from deploy.core.signals import Interrupted, StopAsked
from deploy.core.strict_json import json_bytes
from training.checkpoint import CHECKPOINT, RESUME, RunState, read_run_state, save_checkpoint
from training.config import TrainingConfig
from training.course import Course
from training.data import ImageSet
from training.data.image_set import require_holdout_of
from training.data.subset import chosen_indices
from training.prediction import predict
from training.quantize import Network
from training.ranks import Ranks
from training.run_lock import require_free, run_lock
from training.run_log import RunLog
from training.run_start import RunStart, read_start
from training.starting import starting_network
from training.tensors import tensor_bytes
from training.trainer import Trainer

logger = logging.getLogger(__name__)

POOL = "pool"
"""Folder of the patches that the defense made, to attack other networks with."""


WATCHED = 2000
"""Hold-out images, at most, that the accuracy after each epoch is of: within 2.2 points of that of
all of them (95%), for a small share of the epoch's time."""


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
        self.options, self.run_dir, self.ranks = options, run_dir, ranks
        self.training_set, self.holdout = training_set, holdout
        self.watched = chosen_indices(len(holdout), min(WATCHED, len(holdout)))
        # None of a run of an earlier version, too.
        self.start = read_start(run_dir) if options.resume else None
        self.starting = starting_network(
            config, training_set, network=network, start=self.start, run_dir=run_dir
        )
        self.trainer = Trainer(config, training_set, self.starting, options.device, ranks)
        self.config = self.trainer.config
        identity = {
            # As the version wrote it that started the run; :meth:`_finish` compares it with this.
            "config": self.config.as_dict() if self.start is None else self.start.config,
            "data": training_set.digest,
            **self.starting.identity(),
        }
        if ranks.count > 1:  # BatchNorm is over a rank's slice
            identity["ranks"] = ranks.count
        self.digest = sha256_of_bytes(json_bytes(identity))
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
        trainer, network = self.trainer, self.trainer.network
        if trainer.step < trainer.steps:
            logger.info("stopped at step %d of %d; --resume continues", trainer.step, trainer.steps)
            return self.run_dir / RESUME
        trainer.load_average(network)
        untrained = network.untrained()
        if untrained:
            logger.warning(
                "never trained at %s bits, so the checkpoint is not usable there; train longer, "
                "or leave them out of network.bit_widths",
                ", ".join(map(str, untrained)),
            )
        network.for_evaluation()
        path = self.run_dir / CHECKPOINT
        if not self.ranks.first:
            self.ranks.wait()
            return path
        clean = _accuracies(network, self.holdout.images, self.holdout.labels)
        known = self.starting.warm_start_sha256
        warm_start = {} if known is None else {"warm_start_sha256": known}
        save_checkpoint(
            path,
            network,
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
        for name, arrays in trainer.defense.patch_files().items():
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
        network = copy.deepcopy(self.trainer.network)
        self.trainer.load_average(network)
        images, labels = self.holdout.images[self.watched], self.holdout.labels[self.watched]
        return _accuracies(network.for_evaluation(), images, labels)

    def _steps(self) -> float | None:
        """Train to the end; returns the images/s of the last epoch."""
        trainer, options = self.trainer, self.options
        if self.ranks.count > 1:
            self.ranks.require_same(tensor_bytes(trainer.state(), {}), "the weights to start from")
        last = min(trainer.steps, options.stop_after or trainer.steps)
        saved_at, saved_step = time.monotonic(), trainer.step
        with (
            self.stop,
            RunLog(
                self.run_dir,
                self.config.name,
                self.course,
                done=trainer.step,
                steps=trainer.steps,
                first=self.ranks.first,
                progress=options.progress,
            ) as log,
        ):
            while trainer.step < last and not self.stopping:
                loss, accuracy, self.stopping = trainer.one_step(self.stop)
                log.step(loss, accuracy, self.config.training.batch_size)
                step = trainer.step
                if step % trainer.steps_per_epoch == 0 or step == trainer.steps:
                    if self.ranks.count > 1:
                        self.ranks.require_same(
                            tensor_bytes(trainer.state(), {}), "weights or patches"
                        )
                    log.epoch(step, step / trainer.steps_per_epoch, self._so_far)
                due = time.monotonic() - saved_at >= options.save_seconds
                due |= step % options.save_every == 0
                if due or step == last or self.stopping:
                    self._save()
                    saved_at, saved_step = time.monotonic(), step
        if self.stopping:
            assert saved_step == trainer.step
            raise self._interrupted()
        return log.images_per_s

    def _interrupted(self) -> Interrupted:
        number = self.stop.by or signal.SIGTERM  # another rank's
        return Interrupted(
            number,
            f"interrupted by {signal.Signals(number).name} after step {self.trainer.step} of "
            f"{self.trainer.steps}; the state is saved in {self.run_dir / RESUME}, and --resume "
            "continues from it",
        )

    def _save(self) -> None:
        if self.ranks.first:
            trainer = self.trainer
            RunState(
                run=self.digest, step=trainer.step, course=self.course, tensors=trainer.state()
            ).write(self.run_dir)

    def _resume(self) -> None:
        found = read_run_state(self.run_dir, self.digest)
        self.trainer.load_state(found, str(self.run_dir / RESUME))
        self.course = found.course
        logger.info("resumed at step %d of %d", found.step, self.trainer.steps)


def _accuracies(
    network: Network, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Share of the images that a network in evaluation mode classifies correctly, by bit-width."""
    return {
        str(bits): float((predict(network, images, bits) == labels).mean())
        for bits in network.bit_widths
    }
