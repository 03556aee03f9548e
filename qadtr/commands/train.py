"""`qadtr train`: one config and one data folder to one run folder, or one for each seed."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qadtr.arguments import count, index, positive
from qadtr.commands import shared
from qadtr.config_files import config_from

if TYPE_CHECKING:
    from training.config import TrainingConfig

HELP = "train a network with or without a defense"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config, the images, where the run goes, and how to continue one."""
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help="a TOML file, or the name of one of `qadtr configs`; not needed to resume",
    )
    shared.add_images(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="RUN",
        help="run folder (default: runs/NAME with the config's name)",
    )
    parser.add_argument(
        "--seed",
        type=index,
        nargs="+",
        metavar="N",
        help="one training for each seed, in folders that end with -seedN (default: the "
        "config's seed)",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="continue the interrupted run in RUN, whose folder records config, images and device",
    )
    again.add_argument("--overwrite", action="store_true", help="replace the run in RUN")
    again.add_argument(
        "--dry-run",
        action="store_true",
        help="print config, size, memory and time, estimated from ten real steps; write nothing",
    )
    parser.add_argument("--device", help="torch device, such as cuda (default: cpu)")
    parser.add_argument(
        "--save-every",
        type=count,
        metavar="STEPS",
        help="steps between two saved states to resume from (default: 500)",
    )
    parser.add_argument(
        "--save-seconds",
        type=positive,
        default=300.0,
        metavar="S",
        help="also save such a state after this many seconds (default: 300)",
    )
    for name, what in (("network", "one of docs/networks.md"), ("defense", "qat, pbat, …")):
        parser.add_argument(
            f"--{name}",
            metavar="NAME",
            help=f"{what}, or your own as package.module:NAME; replaces the config's {name}",
        )
    shared.add_settings(parser, "training.epochs=2")


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One training: what, where, and whether it continues one."""

    config: TrainingConfig
    folder: Path
    resumed: bool


def run(arguments: argparse.Namespace) -> int:
    """Train, or continue, and print where each checkpoint is."""
    from deploy.core.errors import InputError, UsageError
    from qadtr.functions.train import train_config
    from training.data import kind_of, load_images
    from training.devices import torch_device
    from training.dry_run import dry_run
    from training.loop import RunOptions
    from training.ranks import join, leave
    from training.run_start import from_memory, read_start

    jobs = _jobs(arguments)
    first = jobs[0]
    # What is not given is as the run was started.
    start = read_start(first.folder) if first.resumed else None
    for name, default in (("data", None), ("cache", None), ("device", "cpu"), ("save_every", 500)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, default if start is None else getattr(start, name))
    kind, size = first.config.data.kind, first.config.data.size
    if start is not None and start.in_memory:
        if arguments.data is None:
            raise InputError(
                f"{first.folder} records no folder of its images; {from_memory(first.folder)}"
            )
        kind = kind_of(arguments.data)
    training_set, holdout = (
        load_images(kind, arguments.data, split, size=size, cache=arguments.cache)
        for split in ("train", "holdout")
    )
    ranks = join(arguments.device)
    device = ranks.device(arguments.device)
    torch_device(device)
    if arguments.dry_run:
        if len(jobs) > 1:
            raise UsageError("--dry-run takes one training; give one --seed")
        print(dry_run(first.config, training_set, holdout, RunOptions(device=device)).text())
        return 0
    for job in jobs:
        written = train_config(
            job.config,
            training_set,
            holdout,
            job.folder,
            shared.settings_of(RunOptions, arguments, device=device, resume=job.resumed),
            ranks,
        )
        if ranks.first:
            print(written, flush=True)
    leave()
    return 0


def _jobs(arguments: argparse.Namespace) -> list[_Job]:
    """Every requested training, checked before the first one starts."""
    from deploy.core.errors import UsageError
    from training.checkpoint import RESUME
    from training.defenses import resolved
    from training.run_lock import require_free

    if arguments.config is None:
        return [_job_of_folder(arguments)]
    settings = shared.settings_from(arguments.settings)
    for name in ("network", "defense"):
        if getattr(arguments, name) is not None:
            settings[f"{name}.name"] = getattr(arguments, name)
    seeds = arguments.seed or [None]
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seed names a seed twice: {' '.join(map(str, seeds))}")
    jobs = []
    for seed in seeds:
        own = settings if seed is None else settings | {"seed": seed}
        config = resolved(config_from(arguments.config, own))
        folder: Path = arguments.out or shared.RUNS / config.name
        if seed is not None and (len(seeds) > 1 or arguments.out is None):
            folder = folder.with_name(f"{folder.name}-seed{seed}")
        if not (arguments.resume or arguments.overwrite or arguments.dry_run):
            require_free(folder)
        # Of several seeds, those that were not reached begin.
        resumed = arguments.resume and ((folder / RESUME).exists() or len(seeds) == 1)
        jobs.append(_Job(config=config, folder=folder, resumed=resumed))
    return jobs


def _job_of_folder(arguments: argparse.Namespace) -> _Job:
    """The run in ``--out``, to be continued as it was started."""
    from deploy.core.errors import InputError, UsageError
    from training.run_start import START, read_start

    if not arguments.resume:
        raise UsageError("CONFIG is needed: a TOML file, or the name of one of `qadtr configs`")
    if arguments.out is None:
        raise UsageError("--resume without CONFIG needs the run folder: --out RUN")
    shared.refuse_without_effect(
        arguments,
        {"settings": [], "seed": None, "network": None, "defense": None},
        "on a run that is resumed without CONFIG, with its own settings",
    )
    start = read_start(arguments.out)
    if start is None:
        raise InputError(
            f"nothing to resume: there is no {arguments.out / START}; resume a run of an earlier "
            f"version with its config: qadtr train CONFIG --resume --out {arguments.out}"
        )
    config = start.training_config(arguments.out)
    return _Job(config=config, folder=arguments.out, resumed=True)
