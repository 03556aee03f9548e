"""The cost of a training, estimated from ten real, timed steps before anything is written."""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.config import TrainingConfig
from training.data import ImageSet
from training.data.image_set import require_holdout_of
from training.devices import wait_for
from training.loop import RunOptions
from training.progress import Progress
from training.trainer import Trainer

logger = logging.getLogger(__name__)

STEPS = 10
"""Real steps that are timed; the first half warms up, the second is what the estimate uses."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """The resolved configuration of a run and what it costs on this machine.

    ``parameters`` counts learned numbers of all bit-widths.  ``network_bytes`` is the size of the
    parameters and statistics, ``state_bytes`` that of the other contents of a resumable state
    (momentum, patches, moving average).  ``peak_bytes`` is the largest memory of the process (on
    CUDA: of the tensors on the device), images included.  ``seconds_per_step`` is a mean,
    ``seconds`` is for all ``steps``, evaluation not included.  ``bit_widths`` are those of the
    ``timed_steps`` timed steps.  ``bf16_over_float32``: images/s with ``training.autocast`` "bf16"
    over those with "off", each measured over that number of steps; None where the training is too
    short to time both.
    """

    config: dict[str, Any]
    images: int
    parameters: int
    network_bytes: int
    state_bytes: int
    peak_bytes: int
    steps: int
    timed_steps: int
    bit_widths: tuple[int, ...]
    seconds_per_step: float
    images_per_s: float
    seconds: float
    device: str
    threads: int
    bf16_over_float32: float | None

    def text(self) -> str:
        """The estimate as lines for a terminal; the configuration first, as JSON."""
        hours, rest = divmod(round(self.seconds), 3600)
        widths = ", ".join(map(str, self.bit_widths))
        timed = f"mean of {self.timed_steps} steps at {widths} bits, {self.threads} threads"
        return "\n".join(
            (
                json.dumps(self.config, indent=2, sort_keys=True, ensure_ascii=False),
                f"images      {self.images}, {self.steps} steps",
                f"parameters  {self.parameters} ({_megabytes(self.network_bytes)} with statistics)",
                f"state       {_megabytes(self.state_bytes)} in addition to the network",
                f"memory      peak of {_megabytes(self.peak_bytes)} on {self.device}",
                f"speed       {self.images_per_s:.0f} images/s ({timed})",
                f"bf16        {self._bf16()}",
                f"step        {self.seconds_per_step:.3f} s",
                f"time        {hours} h {rest // 60} min {rest % 60} s for all steps at that speed",
            )
        )

    def _bf16(self) -> str:
        if self.bf16_over_float32 is None:
            return "not timed: the training is too short"
        return (
            f"{self.bf16_over_float32:.2f} times the images/s of float32 products "
            f"(training.autocast is {self.config['training']['autocast']!r})"
        )


def dry_run(
    config: TrainingConfig, training_set: ImageSet, holdout: ImageSet, options: RunOptions
) -> DryRun:
    """Take :data:`STEPS` steps of the training that ``config`` describes and write nothing.

    The same number of steps with convolutions in the other product type measures its speed.  A
    training shorter than that is run to its end.  A penalty that a curriculum adds later is not in
    the first steps, and therefore not in the estimate.

    Raises:
        InputError: config and images do not fit.
        TrainingDiverged: a loss is not finite.
    """
    require_holdout_of(training_set, holdout)
    trainer = Trainer(config, training_set, device=options.device)
    count = min(STEPS, trainer.steps)
    both = 2 * count <= trainer.steps
    ratio = None
    logger.info(
        "dry run: takes %d real steps of %d%s; nothing is written",
        count,
        trainer.steps,
        f", then {count} with the other product type" if both else "",
    )
    with Progress("dry run", count * (1 + both), shown=options.progress, unit="step") as bar:
        timed, seconds, widths = _timed(trainer, count, bar)
        if both:
            as_set = config.training.autocast == "bf16"
            trainer.network.set_products(torch.float32 if as_set else torch.bfloat16)
            other = _timed(trainer, count, bar)[1]
            ratio = other / seconds if as_set else seconds / other
    return DryRun(
        config=trainer.config.as_dict(),
        images=len(training_set),
        parameters=sum(p.numel() for p in trainer.parameters.values()),
        network_bytes=_bytes(trainer.tensors),
        state_bytes=_bytes(trainer.state()) - _bytes(trainer.tensors),
        peak_bytes=_peak(trainer.device),
        steps=trainer.steps,
        timed_steps=timed,
        bit_widths=tuple(sorted(widths, reverse=True)),
        seconds_per_step=seconds / timed,
        images_per_s=timed * config.training.batch_size / seconds,
        seconds=trainer.steps * seconds / timed,
        device=options.device,
        threads=torch.get_num_threads(),
        bf16_over_float32=ratio,
    )


def _timed(trainer: Trainer, count: int, bar: Progress) -> tuple[int, float, set[int]]:
    """Take ``count`` steps and time the second half; returns its steps, seconds and bit-widths."""
    warm, seconds, widths = count // 2, 0.0, set()
    for index in range(count):
        wait_for(trainer.device)
        start = time.perf_counter()
        trainer.one_step()
        wait_for(trainer.device)
        if index >= warm:
            seconds += time.perf_counter() - start
            widths.add(trainer.network.bit_width)
        bar.advance(note=f"{trainer.network.bit_width} bits")
    return count - warm, seconds, widths


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
