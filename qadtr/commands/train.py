"""`qadtr train`: one config and one data folder to one run folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.commands import shared

HELP = "train a network with or without a defense"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config, the images, where the run goes, and how to continue one."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file, as in configs/")
    shared.add_images(parser)
    parser.add_argument(
        "--out", type=Path, metavar="RUN", help="run folder (default: runs/ and the config's name)"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue the interrupted run in RUN")
    again.add_argument("--overwrite", action="store_true", help="replace the run in RUN")
    again.add_argument(
        "--dry-run",
        action="store_true",
        help="config, size, memory and time, estimated from ten real steps; writes nothing",
    )
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda")
    parser.add_argument(
        "--save-every",
        type=int,
        default=500,
        metavar="STEPS",
        help="steps between two states to resume from (default: 500)",
    )
    parser.add_argument(
        "--save-seconds",
        type=float,
        default=300.0,
        metavar="S",
        help="save such a state after so many seconds too (default: 300)",
    )
    shared.add_settings(parser, "training.epochs=2")


def run(arguments: argparse.Namespace) -> int:
    """Train, or continue, and print where the checkpoint is."""
    from deploy.core.errors import UsageError
    from training.config import load_config
    from training.data import load_images
    from training.defenses import resolved
    from training.devices import torch_device
    from training.dry_run import dry_run
    from training.loop import RunOptions, train
    from training.ranks import join, leave
    from training.run_lock import require_free

    if arguments.save_every < 1:
        raise UsageError(f"--save-every must be at least 1, got {arguments.save_every}")
    if not arguments.save_seconds > 0.0:
        raise UsageError(f"--save-seconds must be above 0, got {arguments.save_seconds}")
    config = resolved(load_config(arguments.config, shared.settings_from(arguments.settings)))
    folder: Path = arguments.out or shared.RUNS / config.name
    if not (arguments.resume or arguments.overwrite or arguments.dry_run):
        require_free(folder)
    kind, size = config.data.kind, config.data.size
    training_set, holdout = (
        load_images(kind, arguments.data, split, size=size, cache=arguments.cache)
        for split in ("train", "holdout")
    )
    ranks = join(arguments.device)
    device = ranks.device(arguments.device)
    torch_device(device)
    options = shared.settings_of(RunOptions, arguments, device=device)
    if arguments.dry_run:
        print(dry_run(config, training_set, holdout, options).text())
        return 0
    written = train(
        config,
        training_set,
        holdout,
        folder,
        options,
        lambda: shared.provenance(
            seed=config.seed,
            config=config.as_dict(),
            data={"name": training_set.name, "digest": training_set.digest},
        ),
        ranks,
    )
    leave()
    if ranks.first:
        print(written)
    return 0
