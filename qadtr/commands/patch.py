"""`qadtr patch`: adversarial patches made on one network, as files for any other."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.commands.shared import add_data, add_settings, settings_from

HELP = "make adversarial patches on a trained network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source, the attack, and which images it is tried on."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of the source network")
    add_data(parser)
    parser.add_argument(
        "--attack",
        required=True,
        help="gap (universal), lavan, location; without gradients sparse-rs, texture",
    )
    parser.add_argument("--size", type=int, metavar="PX", help="side of the patch in pixels")
    parser.add_argument("--kind", help="lavan: per-image (default) or universal")
    parser.add_argument("--shape", help="square or circle")
    parser.add_argument("--placement", help="random, centre, top-left, …")
    parser.add_argument("--target", type=int, metavar="CLASS", help="class index to cause")
    parser.add_argument("--bits", type=int, nargs="+", help="bit-widths of the source (default 32)")
    parser.add_argument("--steps", type=int, help="steps of the optimization")
    parser.add_argument("--restarts", type=int, help="independent tries, the best is kept")
    parser.add_argument(
        "--with",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        dest="beside",
        help="make the patch against these networks too, all at once",
    )
    parser.add_argument(
        "--engine",
        help="attack the exported model in this engine (onnxruntime), not the network; for attacks "
        "without gradients",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the attack (default: 0)")
    parser.add_argument(
        "--split",
        default="test",
        choices=("test", "holdout"),
        help="images that the patch is tried on; choose settings on holdout (default: test)",
    )
    parser.add_argument("--images", type=int, metavar="N", help="how many of them (default: all)")
    parser.add_argument(
        "--made-from",
        type=int,
        metavar="N",
        help="universal: training images to optimize on (default: all)",
    )
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.npz", help="default: a file in RUN/patches/"
    )
    add_settings(parser, "momentum=0.9")


def run(arguments: argparse.Namespace) -> int:
    """Make the patches and print where they are."""
    from deploy.device.records import provenance
    from eval.attacks import attack_from_settings
    from eval.patch_run import PatchRunSettings, make_patches
    from qadtr.commands.shared import repository
    from training.run_folder import RunFolder

    named = {
        "size_px": arguments.size,
        "kind": arguments.kind,
        "shape": arguments.shape,
        "placement": arguments.placement,
        "target": arguments.target,
        "bit_widths": None if arguments.bits is None else tuple(arguments.bits),
        "steps": arguments.steps,
        "restarts": arguments.restarts,
    }
    given = {key: value for key, value in named.items() if value is not None}
    attack = attack_from_settings(arguments.attack, {**given, **settings_from(arguments.settings)})
    source = RunFolder.open(arguments.run)
    path, patch_set = make_patches(
        source,
        attack,
        arguments.data,
        PatchRunSettings(
            split=arguments.split,
            images=arguments.images,
            made_from=arguments.made_from,
            seed=arguments.seed,
            device=arguments.device,
            engine=arguments.engine,
        ),
        provenance(
            repository=repository(), seed=arguments.seed, config=attack.settings.as_record()
        ),
        arguments.out,
        beside=[RunFolder.open(run) for run in arguments.beside],
    )
    area = patch_set.provenance["area"]
    print(
        f"{path}: {patch_set.name}, {area['px']} px ({100 * area['share']:.1f}% of the image), "
        f"for {len(patch_set.image_indices)} images"
    )
    return 0
