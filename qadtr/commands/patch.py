"""`qadtr patch`: adversarial patches made on one network, or supplied, as files for any other."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qadtr.arguments import count, index
from qadtr.commands import shared

if TYPE_CHECKING:
    from deploy.core.patch_set import PatchSet

HELP = "make adversarial patches on a trained network, or place the patches of a file on its images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source, the attack, and which images it is tried on."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of the source network")
    shared.add_images(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--attack",
        help="gap (universal), lavan, location, sparse-rs (without gradients), or your own as "
        "package.module:Class",
    )
    what.add_argument(
        "--supplied",
        type=Path,
        metavar="FILE",
        help="place the patches of a .png or .npz on the run's images; see docs/attacks.md",
    )
    parser.add_argument(
        "--size",
        type=shared.patch_size,
        metavar="SIZE",
        help="side of the patch in pixels, or its share of the image, such as 5%%",
    )
    parser.add_argument("--kind", help="lavan: per-image (default) or universal")
    parser.add_argument("--shape", help="square or circle")
    parser.add_argument("--placement", help="random, centre, top-left, …")
    parser.add_argument(
        "--target",
        type=index,
        metavar="CLASS",
        help="index of the class that the patch shall cause",
    )
    parser.add_argument(
        "--bits", type=count, nargs="+", help="bit-widths of the source (default 32)"
    )
    parser.add_argument("--steps", type=count, help="steps of the optimization")
    parser.add_argument(
        "--restarts", type=count, help="number of independent tries; the best is kept"
    )
    parser.add_argument(
        "--with",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        dest="beside",
        help="make the patch against these networks too, against all at once",
    )
    parser.add_argument(
        "--engine",
        help="attack the exported model in this engine (onnxruntime) instead of the network; for "
        "attacks without gradients",
    )
    parser.add_argument("--seed", type=index, default=0, help="seed of the attack (default: 0)")
    shared.add_split(
        parser,
        "split of the images that the patch is tried on; choose settings on holdout "
        "(default: test)",
    )
    parser.add_argument("--images", type=count, metavar="N", help="number of images (default: all)")
    parser.add_argument(
        "--made-from",
        type=count,
        metavar="N",
        help="universal: training images to optimize on (default: all)",
    )
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.npz",
        help="file to write (default: a file in RUN/patches/); with --supplied a folder",
    )
    shared.add_settings(parser, "momentum=0.9")


def run(arguments: argparse.Namespace) -> int:
    """Make the patches and print where they are."""
    from eval.stages.patch import PatchRunSettings
    from qadtr.functions.patch import attacked
    from training.run_folder import RunFolder

    if arguments.supplied is not None:
        return _supplied(arguments)
    source = RunFolder.open(arguments.run, arguments.cache, arguments.data)
    path, patch_set = attacked(
        source,
        arguments.attack,
        arguments.data,
        _given(arguments, _OF_ATTACKS),
        shared.settings_of(PatchRunSettings, arguments),
        arguments.out,
        [RunFolder.open(run) for run in arguments.beside],
    )
    _print(path, patch_set)
    return 0


def _supplied(arguments: argparse.Namespace) -> int:
    from deploy.core.errors import UsageError
    from eval.attacks.supplied.placing import PlacingSettings
    from eval.stages.patch import PatchRunSettings, supply_patches
    from training.patch_sizes import in_pixels
    from training.run_folder import RunFolder
    from training.validated import read_settings

    unfit = sorted(_only_attacks(arguments))
    if unfit:
        raise UsageError(f"{', '.join(unfit)} belong to an attack, not to --supplied")
    run = RunFolder.open(arguments.run, arguments.cache, arguments.data)
    given = in_pixels(_given(arguments, _OF_SUPPLIED), run.spec.image_size)
    placing = read_settings(PlacingSettings, given, "supplied patch")
    written = supply_patches(
        run,
        arguments.supplied,
        arguments.data,
        placing,
        shared.settings_of(PatchRunSettings, arguments),
        shared.provenance(seed=arguments.seed, config=placing.as_record()),
        arguments.out,
    )
    for path, patch_set in written:
        _print(path, patch_set)
    return 0


_OF_ATTACKS = ("size", "kind", "shape", "placement", "target", "bits", "steps", "restarts")
_OF_SUPPLIED = ("size", "placement", "target")
_SETTINGS = {"size": "size_px", "bits": "bit_widths"}
"""Options whose setting has another name."""


def _given(arguments: argparse.Namespace, options: tuple[str, ...]) -> dict[str, Any]:
    """The settings that were given, as options or by ``--set``."""
    values = {_SETTINGS.get(name, name): getattr(arguments, name) for name in options}
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not None
    }
    return {**given, **shared.settings_from(arguments.settings)}


def _only_attacks(arguments: argparse.Namespace) -> set[str]:
    names = {*_OF_ATTACKS} - {*_OF_SUPPLIED} | {"engine", "made_from"}
    given = {
        f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) is not None
    }
    return given | ({"--with"} if arguments.beside else set())


def _print(path: Path, patch_set: PatchSet) -> None:
    area, name = patch_set.origin.area, patch_set.origin.more.get("target_class")
    print(
        f"{path}: {patch_set.name}, {area['px']} px ({100 * area['share']:.1f}% of the image), "
        f"for {len(patch_set.image_indices)} images"
        + ("" if name is None else f", target {patch_set.target} (class {name!r})")
    )
