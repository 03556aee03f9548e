"""`qadtr pixel`: accuracy against bit-width under pixel attacks."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.arguments import count, index, positive
from qadtr.commands import shared

HELP = "measure a network under pixel attacks (FGSM, PGD, MI-FGSM, C&W, AutoAttack with DeepFool)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The network, the attack and the images."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of the network")
    shared.add_images(parser)
    parser.add_argument(
        "--attack",
        default="pgd",
        help="fgsm, pgd (default), mi-fgsm, cw, autoattack-deepfool (DeepFool in place of FAB)",
    )
    shared.add_bits(parser)
    parser.add_argument(
        "--made-at",
        type=count,
        metavar="BITS",
        help="use the gradient of this bit-width for all bit-widths (default: each uses its own)",
    )
    parser.add_argument(
        "--epsilon",
        type=positive,
        default=8.0,
        help="radius in pixel values, a whole number of 1…255 (default: 8)",
    )
    parser.add_argument("--steps", type=count, default=20, help="steps of the attack (default: 20)")
    parser.add_argument("--restarts", type=count, default=1, help="random starts (default: 1)")
    parser.add_argument(
        "--queries",
        type=count,
        default=1000,
        help="queries of the Square attack in autoattack-deepfool (default: 1000)",
    )
    parser.add_argument("--images", type=count, metavar="N", help="number of images (default: all)")
    shared.add_split(parser, "split of the images (default: test)")
    parser.add_argument(
        "--batch-size", type=count, default=100, help="images per batch (default: 100)"
    )
    parser.add_argument(
        "--seed", type=index, default=0, help="seed of the random starts (default: 0)"
    )
    parser.add_argument(
        "--engine", help="also measure the exported models, in this engine (onnxruntime)"
    )
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda")


def run(arguments: argparse.Namespace) -> int:
    """Attack, write the records and print them as a table."""
    from deploy.core.records import read_records
    from eval.attacks.pixel.pixel_settings import PixelSettings
    from eval.measure.checks.checks_record import attack_checks_from_records
    from eval.report.pixel import pixel_table
    from eval.stages.pixel import PixelRunSettings, attack_pixels
    from training.run_folder import RunFolder

    attack = shared.settings_of(PixelSettings, arguments)
    run = RunFolder.open(arguments.run, arguments.cache, arguments.data)
    records = attack_pixels(
        run,
        attack,
        arguments.data,
        shared.settings_of(PixelRunSettings, arguments),
        shared.provenance(seed=arguments.seed, config=attack.as_record()),
    )
    checks = attack_checks_from_records(read_records(run.records))
    print(pixel_table(records, checks))
    return 0
