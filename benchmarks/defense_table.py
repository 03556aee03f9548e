"""The table of the defenses: each config trained, exported and attacked, from records alone.

    python -m benchmarks.defense_table --data DIR --out FOLDER [--epochs 20] [--plan | --table]

For every row (a config of ``configs/``, its name behind the family's): `qadtr train`, `export`,
`patch` at the row's own widest bit-width (the white-box column) and `eval`, against the patches of
the family's ``-source`` network (the transfer column), each per image and universal, at each size.
Everything is done by the commands that a user types, and what is there already is not done again:
killed at any moment, the same line continues.  A row that fails is named, and the others go on.

``--source`` takes a finished float run in place of training one; ``--warm-start`` starts every row
(not the source) from one float checkpoint, for fewer epochs.  Two processes may make different rows
of one FOLDER once the source's patches are there; ``--table`` then makes one table of all.

``--plan`` trains nothing: it times ten steps of each row and prints how long the table would take.
``--table`` only prints what there is.  Both FOLDER/defense-table.json and the Markdown on standard
output are made from the records of `qadtr eval`; each difference to the reference row is over the
images that both classify correctly without the patch, with Newcombe's paired interval.

Choose settings with ``--split holdout``; test images are for the final table.
"""

from __future__ import annotations

import argparse
import logging
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.defense_rows import TABLE, PatchColumn, markdown, table_from_runs
from deploy.core.errors import InputError, QadtrError
from deploy.core.files import write_json
from deploy.core.records import provenance
from training.allocator import keep_freed_memory
from training.checkpoint import CHECKPOINT, RESUME
from training.config import TrainingConfig, config_from_dict, load_config
from training.data import load_images
from training.defenses import resolved
from training.dry_run import dry_run
from training.loop import RunOptions
from training.quantizers import FLOAT
from training.run_folder import RunFolder

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
ROWS = (
    "plain",
    "pbat",
    "dwq",
    "triqdef",
    "aqapa",
    "aqapa-dbwt",
    "gir-noise",
    "gir-penalty",
    "full",
)
"""The rows by default. ``dbwt`` alone trains what ``plain`` trains, to the byte, and is left out;
``plain-8bit`` … ``plain-2bit`` are plain QAT of one bit-width each."""

KINDS = ("per-image", "universal")
SOURCE = "source"
"""The attacker's float network, whose patches are the transfer columns."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the table is made of; every field is a word of the command line."""

    data: Path | None
    out: Path
    family: str
    configs: Path
    rows: tuple[str, ...]
    reference: str
    source: Path | None
    warm_start: Path | None
    epochs: float | None
    sizes_px: tuple[int, ...]
    split: str
    images: int
    made_from: int
    steps: int
    own_images: int
    own_steps: int
    settings: tuple[str, ...]
    device: str

    def config_of(self, row: str) -> Path:
        """The TOML file of a row, or of "source"."""
        return self.configs / f"{self.family}-{row}.toml"

    def overrides(self, row: str) -> list[str]:
        """``--set`` words of a row's training; the source gets all but the warm start."""
        epochs = [] if self.epochs is None else [f"training.epochs={self.epochs}"]
        if self.warm_start is not None and row != SOURCE:
            epochs.append(f"training.warm_start={self.warm_start}")
        return [word for value in (*epochs, *self.settings) for word in ("--set", value)]

    def run_of(self, row: str) -> Path:
        """The run folder of a row, or of the source."""
        return self.source if row == SOURCE and self.source is not None else self.out / row

    def columns(self) -> tuple[PatchColumn, ...]:
        """Patch sets by kind and size."""
        return tuple(PatchColumn(kind=k, size_px=s) for k in KINDS for s in self.sizes_px)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, export, attack, evaluate, print; 1 if a row failed."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    plan = Plan(
        data=None if arguments.data is None else arguments.data.resolve(),
        out=arguments.out.resolve(),
        family=arguments.family,
        configs=arguments.configs.resolve(),
        rows=tuple(arguments.rows),
        reference=arguments.reference,
        source=None if arguments.source is None else arguments.source.resolve(),
        warm_start=None if arguments.warm_start is None else _from_root(arguments.warm_start),
        epochs=arguments.epochs,
        sizes_px=tuple(arguments.sizes),
        split=arguments.split,
        images=arguments.images,
        made_from=arguments.made_from,
        steps=arguments.steps,
        own_images=arguments.own_images,
        own_steps=arguments.own_steps,
        settings=tuple(arguments.settings),
        device=arguments.device,
    )
    try:
        for row in (*plan.rows, SOURCE):
            load_config(plan.config_of(row))
        if arguments.plan:
            print(_times(plan))
            return 0
        failed = {} if arguments.table else _make(plan)
        table = _table(plan, failed)
    except QadtrError as error:
        print(f"defense_table: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown(table))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.defense_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, help="as for qadtr train")
    add("--out", type=Path, required=True, help="folder of the runs, patches and the table")
    add("--configs", type=Path, default=ROOT / "configs", help="default: configs/")
    add("--family", default="cifar10-resnet8", help="first part of the configs' names")
    add("--rows", nargs="+", default=ROWS, help=f"default: {' '.join(ROWS)}")
    add("--reference", default="full", help="row that differences are to (default: full)")
    add("--source", type=Path, help="a finished float run (default: one is trained)")
    add("--warm-start", type=Path, help="float checkpoint that every row starts from")
    add("--epochs", type=float, help="the same for every row (default: the configs')")
    add("--sizes", type=int, nargs="+", default=[6, 8], help="sides of the patches, in pixels")
    add("--split", default="test", choices=("test", "holdout"))
    add("--images", type=int, default=2000, help="images of a transfer cell (default: 2000)")
    add("--made-from", type=int, default=5000, help="training images of a universal patch")
    add("--steps", type=int, default=100, help="of the transferred patches (default: 100)")
    add("--own-images", type=int, default=2000, help="of a white-box cell; 0: no such column")
    add("--own-steps", type=int, default=100, help="of the white-box patches (default: 100)")
    add("--set", action="append", default=[], dest="settings", help="KEY=VALUE for every training")
    add("--device", default="cpu")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--plan", action="store_true", help="time ten steps of each row, and stop")
    only.add_argument("--table", action="store_true", help="only print what is there")
    return parser


def _from_root(path: Path) -> Path:
    """The path as it goes into the rows' configs: within the repository it does not say where."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _make(plan: Plan) -> dict[str, str]:
    """Do what is missing; the rows that failed, with the stage that did."""
    _trained(plan, SOURCE)
    transferred = [_patches(plan, SOURCE, c, plan.images, plan.steps) for c in plan.columns()]
    failed = {}
    for row in plan.rows:
        try:
            run = _trained(plan, row)
            _exported(plan, run)
            own = []
            if plan.own_images:
                columns = plan.columns()
                own = [_patches(plan, row, c, plan.own_images, plan.own_steps) for c in columns]
            for patches in (transferred, own):
                _evaluated(plan, run, patches)
        except _StageFailed as error:
            failed[row] = str(error)
            logger.error("%s: %s; the other rows go on", row, error)
    return failed


class _StageFailed(QadtrError):
    """A command of a row ended with an error, which it has printed itself."""


def _qadtr(*words: object) -> None:
    line = [str(word) for word in words]
    logger.info("$ qadtr %s", " ".join(line))
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "qadtr", *line], cwd=ROOT, check=False)
    if done.returncode:
        raise _StageFailed(f"qadtr {line[0]} ended with exit code {done.returncode}")
    logger.info("  %.0f s", time.monotonic() - start)


def _data(plan: Plan) -> list[object]:
    return [] if plan.data is None else ["--data", plan.data]


def _trained(plan: Plan, row: str) -> Path:
    """The run folder of a row, trained to its end."""
    run = plan.run_of(row)
    if row == SOURCE and plan.source is not None:
        folder = RunFolder.open(run)
        if folder.bit_widths != (FLOAT,):
            raise InputError(f"--source {run} has the bit-widths {folder.bit_widths}, not 32 alone")
        return run
    if (run / CHECKPOINT).is_file():
        _check_same(plan, row, RunFolder.open(run))
        return run
    again = ["--resume"] if (run / RESUME).is_file() else []
    words = ["train", plan.config_of(row), *_data(plan), "--out", run, "--device", plan.device]
    _qadtr(*words, *again, *plan.overrides(row))
    return run


def _wanted(plan: Plan, row: str) -> TrainingConfig:
    from qadtr.commands.shared import settings_from

    words = [word for word in plan.overrides(row) if word != "--set"]
    return resolved(load_config(plan.config_of(row), settings_from(words)))


def _check_same(plan: Plan, row: str, run: RunFolder) -> None:
    there = config_from_dict(run.sidecar["config"], str(run.checkpoint)).as_dict()
    wanted = _wanted(plan, row).as_dict()
    differing = [name for name in wanted if wanted[name] != there.get(name)]
    if differing:
        raise InputError(
            f"{run.path} was trained with another {', '.join(differing)} than asked for now "
            f"({there.get(differing[0])} instead of {wanted[differing[0]]}); take another --out, "
            "or the settings that it was trained with"
        )


def _exported(plan: Plan, run: Path) -> None:
    folder = RunFolder.open(run)
    missing = [bits for bits in folder.bit_widths if not folder.model_file(bits).is_file()]
    if missing:
        _qadtr("export", run, *_data(plan), "--bits", *missing)


def _patch_file(plan: Plan, row: str, column: PatchColumn, images: int, steps: int) -> Path:
    # In the table's own folder, also for a source that is somebody else's run.
    return plan.out / row / "patches" / f"{column.name}-{plan.split}-{images}-{steps}.npz"


def _patches(plan: Plan, row: str, column: PatchColumn, images: int, steps: int) -> Path:
    """The file of a column's patches made on a row's run at its widest bit-width."""
    run = plan.run_of(row)
    path = _patch_file(plan, row, column, images, steps)
    if path.is_file():
        return path
    words = ["patch", run, *_data(plan), "--size", column.size_px, "--steps", steps, "--out", path]
    words += ["--bits", RunFolder.open(run).bit_widths[0], "--split", plan.split]
    words += ["--images", images, "--device", plan.device]
    if column.kind == "universal":
        words += ["--attack", "gap", "--made-from", plan.made_from]
    else:
        words += ["--attack", "lavan"]
    _qadtr(*words)
    return path


def _evaluated(plan: Plan, run: Path, patches: Sequence[Path]) -> None:
    # Records that are there already are not made again by the command itself.
    if patches:
        words = ["--no-latency", "--no-drift", "--split", plan.split]
        _qadtr("eval", run, *_data(plan), "--patches", *patches, *words)


def _table(plan: Plan, failed: dict[str, str]) -> dict[str, Any]:
    def files(row: str, images: int, steps: int) -> dict[PatchColumn, Path]:
        paths = {c: _patch_file(plan, row, c, images, steps) for c in plan.columns()}
        return {column: path for column, path in paths.items() if path.is_file()}

    runs = {row: plan.out / row for row in plan.rows if (plan.out / row / CHECKPOINT).is_file()}
    table = table_from_runs(
        runs,
        transferred=files(SOURCE, plan.images, plan.steps),
        own={row: files(row, plan.own_images, plan.own_steps) for row in runs},
        reference=plan.reference,
        plain="plain",
        split=plan.split,
    )
    table |= {"family": plan.family, "split": plan.split, "failed": failed}
    write_json(plan.out / TABLE, {**table, "provenance": provenance(repository=ROOT)})
    return table


def _times(plan: Plan) -> str:
    """Images/s of each row from ten real steps, and the time of its training."""
    keep_freed_memory()
    costs = {}
    for row in (SOURCE, *plan.rows):
        config = _wanted(plan, row)
        images = [
            load_images(config.data.kind, plan.data, split, size=config.data.size)
            for split in ("train", "holdout")
        ]
        costs[row] = dry_run(config, images[0], images[1], RunOptions(device=plan.device))
    lines = [f"{'row':<14} {'images/s':>9} {'× plain':>8} {'steps':>8} {'minutes':>8}"]
    for row, cost in costs.items():
        times = costs["plain"].images_per_s / cost.images_per_s if "plain" in costs else math.nan
        lines.append(
            f"{row:<14} {cost.images_per_s:>9.1f} {times:>8.2f} {cost.steps:>8} "
            f"{cost.seconds / 60:>8.1f}"
        )
    hours = sum(cost.seconds for cost in costs.values()) / 3600
    lines.append(f"training of all rows: {hours:.1f} h; patches and evaluation come on top")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
