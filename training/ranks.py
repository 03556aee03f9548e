"""Several processes that train one network: each has a slice of every batch.

``torchrun`` starts them, and sets ``RANK``, ``WORLD_SIZE`` and the address where they connect. Each
step shares the gradients, the BatchNorm and activation statistics and the loss in one flat
all-reduce. DistributedDataParallel is not used: the parameters that a step uses change with its
bit-width, and a step may have two backward passes. One vector after both passes is the simplest
solution, and it is the same on every rank.

=====================  =====================================================================
batch, its order and   a pure function of (seed, step): the same on every rank, which takes the
patches                ``rank``-th of ``count`` equal slices for its forward and backward pass
BatchNorm              over the slice; running statistics are averaged after each step
gradients              averaged, then clipped: every rank's optimizer takes the same step
patch pools            learn from the gradients at the pixels of all slices, gathered: the same
                       everywhere
files                  written by rank 0 alone
=====================  =====================================================================
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from deploy.core.errors import InputError, QadtrError
from deploy.core.files import sha256_of_bytes

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets, and :func:`join` reads."""


class RanksDiffer(QadtrError):
    """Two ranks hold different weights: a network or a processor computed wrongly."""


@dataclass(frozen=True)
class Ranks:
    """This process among ``count``; ``Ranks()`` is a single process, which sends nothing."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def device(self, asked: str) -> str:
        """The torch device of this rank: "cuda" becomes one GPU of this machine, in rank order."""
        in_turn = self.count > 1 and asked == "cuda"
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if in_turn else asked

    def slice_of(self, size: int) -> slice:
        """This rank's part of a batch of ``size``, which :func:`check_batch` found divisible."""
        own = size // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    def average(
        self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """The mean over ranks of each tensor, where None counts as zeros; None where all have None.

        ``like`` gives shape and device of each. All ranks call this with the same number of
        tensors in the same order.
        """
        if self.count == 1:
            return list(tensors)
        device = like[0].device
        present = torch.tensor([t is not None for t in tensors], dtype=torch.uint8, device=device)
        dist.all_reduce(present, op=dist.ReduceOp.MAX)
        wanted = [number for number, there in enumerate(present.tolist()) if there]
        parts = []
        for number in wanted:
            tensor = tensors[number]
            parts.append((torch.zeros_like(like[number]) if tensor is None else tensor).flatten())
        if not parts:
            return [None] * len(tensors)
        flat = torch.cat([part.float() for part in parts])
        dist.all_reduce(flat)
        flat /= self.count
        result: list[Tensor | None] = [None] * len(tensors)
        for number, part in zip(wanted, flat.split([p.numel() for p in parts]), strict=True):
            result[number] = part.view(like[number].shape).to(like[number].dtype)
        return result

    def gathered(self, own: Tensor) -> Tensor:
        """The slices of all ranks, in the order of the batch."""
        if self.count == 1:
            return own
        parts = [
            torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(self.count)
        ]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    def require_same(self, data: bytes, what: str) -> None:
        """Compare a digest of ``data`` over all ranks.

        Raises:
            RanksDiffer: it is not the same everywhere; the message names ``what``.
        """
        if self.count == 1:
            return
        digest = list(bytes.fromhex(sha256_of_bytes(data)))
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        every = self.gathered(torch.tensor([digest], dtype=torch.uint8, device=device))
        if bool((every != every[:1]).any()):
            raise RanksDiffer(
                f"{what} differ between the {self.count} processes, because the machines compute "
                "differently (other processors or package versions?); use identical machines"
            )

    def wait(self) -> None:
        """Wait until every rank has reached this call."""
        if self.count > 1:
            dist.barrier()


def join(device: str) -> Ranks:
    """The ranks that ``torchrun`` started, or a single process without it; on the device "cuda"
    they communicate by NCCL, else by gloo.

    Raises:
        InputError: the variables of ``torchrun`` are incomplete.
    """
    if "WORLD_SIZE" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return Ranks()
    lacking = [name for name in VARIABLES if name not in os.environ]
    if lacking:
        raise InputError(
            f"WORLD_SIZE is set but {', '.join(lacking)} is not; start the training with torchrun"
        )
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Close what :func:`join` opened."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def check_batch(batch_size: int, accumulate: int, ranks: Ranks) -> None:
    """Refuse a batch that does not divide into equal slices and parts.

    Raises:
        InputError: it does not.
    """
    if batch_size % (ranks.count * accumulate):
        raise InputError(
            f"training.batch_size is {batch_size}, which cannot be divided equally among "
            f"{ranks.count} processes of {accumulate} parts; choose a multiple of "
            f"{ranks.count * accumulate}"
        )
