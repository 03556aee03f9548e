"""What a defense adds to a training step: time against plain shared-weight QAT, side by side.

    python -m benchmarks.training_step [--network resnet20] [--batch 128] [--json FILE]

All rows train the same network on batches of the same size, at the same bit-width in each step
(``cycle``), but for two that say what the quantizers cost: one has the float mode alone, one has
all but it.  A round is ten steps, two cycles of five bit-widths, taken in turn step by step: one
step of each row before the next step of any.  A ratio is that of a round's sums; given are its
median and quartiles over the rounds.  The images are random bytes, which cost what others cost.

Forwards and backwards are counted in images and divided by the batch: a forward is one image
through the network, a backward one image's gradient arriving at the logits.  A backward for pixels
alone (an inner attack) counts as one too, and so does the second one of a double backward.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.records import parser_of, ratio, report
from benchmarks.stock_quantizers import stock_quantizers
from training.allocator import keep_freed_memory
from training.config import config_from_dict
from training.data import ImageSet
from training.data.image_set import image_set
from training.devices import wait_for
from training.quantize import Network
from training.trainer import Trainer

BIT_WIDTHS = (32, 8, 5, 4, 2)
QUANTIZED = BIT_WIDTHS[1:]
STEPS = 2 * len(BIT_WIDTHS)
"""Of a round: two cycles, since QADT-R's penalty is taken in every second one."""

BASE = "plain QAT"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: the ``[defense]`` table, whether Brevitas' own quantization is used,
    ``training.autocast``, and the network's bit-widths."""

    defense: Mapping[str, object]
    stock: bool = False
    autocast: str = "off"
    bit_widths: tuple[int, ...] = BIT_WIDTHS


ROWS: Mapping[str, Row] = {
    BASE: Row(defense={"name": "qat"}),
    "float alone": Row(defense={"name": "qat"}, bit_widths=(32,)),
    "plain QAT, without float": Row(defense={"name": "qat"}, bit_widths=QUANTIZED),
    "plain QAT, Brevitas' own quantization": Row(defense={"name": "qat"}, stock=True),
    "QADT-R, without inner steps": Row(defense={"name": "qadtr", "inner_steps": 0}),
    "QADT-R, default": Row(defense={"name": "qadtr"}),
    "QADT-R, default without GIR": Row(defense={"name": "qadtr", "gir": False}),
    "QADT-R, full (GIR: noise and penalty)": Row(defense={"name": "qadtr", "gir_penalty": True}),
    "plain QAT, products in bfloat16": Row(defense={"name": "qat"}, autocast="bf16"),
    "QADT-R, default, products in bfloat16": Row(defense={"name": "qadtr"}, autocast="bf16"),
}
RIVALS: Mapping[str, Row] = {
    "PBAT": Row(defense={"name": "pbat"}),
    "TriQDef": Row(defense={"name": "triqdef", "wide_until": 0.0}),
    "DWQ": Row(defense={"name": "dwq", "bits": list(BIT_WIDTHS)}),
}
"""Slow; DWQ draws its bit-widths, so its rounds are not of the same bit-widths as the others'."""


@dataclass
class Passes:
    """Images that went forward through a network, and gradients that came back to its logits."""

    forwards: int = 0
    backwards: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = parser_of("training_step", __doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rivals", action="store_true", help="PBAT, TriQDef and DWQ too (slow)")
    parser.add_argument(
        "--only", nargs="+", metavar="ROW", help=f"some of the rows, beside {BASE!r}"
    )
    arguments = parser.parse_args(argv)
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2, or there are no quartiles")
    chosen = {**ROWS, **(RIVALS if arguments.rivals else {})}
    unknown = sorted(set(arguments.only or ()) - chosen.keys())
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; the rows: {'; '.join(chosen)}")
    if arguments.only:
        chosen = {name: row for name, row in chosen.items() if name in {BASE, *arguments.only}}
    keep_freed_memory()
    rows = measure(
        chosen,
        network=arguments.network,
        batch=arguments.batch,
        rounds=arguments.rounds,
        device=arguments.device,
    )
    record = {
        "benchmark": "training-step",
        "network": arguments.network,
        "batch": arguments.batch,
        "bit_widths": list(BIT_WIDTHS),
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "rows": rows,
    }
    report(record, arguments.json)
    return 0


def measure(
    rows: Mapping[str, Row], *, network: str, batch: int, rounds: int, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Of each row the ratio to :data:`BASE` with quartiles, images/s, and passes a step."""
    trainers = {name: started(row, network, batch, device=device) for name, row in rows.items()}
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        spent = dict.fromkeys(rows, 0.0)
        for _ in range(STEPS):
            for name, trainer in trainers.items():
                spent[name] += _step(trainer, rows[name])
        for name, value in spent.items():
            seconds[name].append(value)
    return [
        {
            "row": name,
            "defense": dict(rows[name].defense),
            "over_plain": ratio(seconds[name], seconds[BASE]),
            "images_per_s": STEPS * batch / median(seconds[name]),
            **passes_a_step(trainer, rows[name]),
        }
        for name, trainer in trainers.items()
    ]


def passes_a_step(trainer: Trainer, row: Row) -> dict[str, float]:
    """Forwards and backwards of a whole batch a step, a mean over a round."""
    images = STEPS * trainer.config.training.batch_size
    with counted(trainer.network) as passes:
        for _ in range(STEPS):
            _step(trainer, row)
    return {"forwards": passes.forwards / images, "backwards": passes.backwards / images}


@contextmanager
def counted(network: Network) -> Iterator[Passes]:
    """Counts the images that pass ``network`` forward and backward inside the ``with`` block."""
    passes = Passes()

    def back(gradient: Tensor) -> None:
        passes.backwards += len(gradient)

    def forward(module: object, inputs: object, logits: Tensor) -> None:
        del module, inputs
        passes.forwards += len(logits)
        if logits.requires_grad:
            logits.register_hook(back)

    hook = network.register_forward_hook(forward)
    try:
        yield passes
    finally:
        hook.remove()


def started(row: Row, network: str, batch: int, *, size: int = 32, device: str = "cpu") -> Trainer:
    """A training of ``row`` that has been at every bit-width once, which sets their scales."""
    config = config_from_dict(
        {
            "name": "training-step",
            "seed": 1,
            "data": {"kind": "cifar10"},
            "network": {"name": network, "bit_widths": list(row.bit_widths)},
            "training": {"epochs": 10_000, "batch_size": batch, "autocast": row.autocast},
            "defense": dict(row.defense),
        },
        "benchmarks.training_step",
    )
    images = _images(2 * batch, size)
    trainer = Trainer(config, images, device=device)
    for _ in BIT_WIDTHS:
        _step(trainer, row)
    return trainer


def _step(trainer: Trainer, row: Row) -> float:
    with stock_quantizers() if row.stock else nullcontext():
        wait_for(trainer.device)
        start = time.perf_counter()
        trainer.one_step()
        wait_for(trainer.device)
        return time.perf_counter() - start


def _images(count: int, size: int) -> ImageSet:
    generator = np.random.default_rng(0)
    return image_set(
        generator.integers(0, 256, (count, 3, size, size), dtype=np.uint8),
        generator.integers(0, 10, count),
        tuple("abcdefghij"),
        name="random bytes",
        split="train",
    )


if __name__ == "__main__":
    raise SystemExit(main())
