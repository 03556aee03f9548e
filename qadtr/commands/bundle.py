"""`qadtr bundle`: an exported model, patches, images and thresholds as one file for the device."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from qadtr.arguments import count, share
from qadtr.commands import shared

HELP = "pack an exported model, patches, images and thresholds for the device"


_PARTS = {
    "images": "images",
    "patches": "patches",
    "models": "models",
    "golden": "golden codes and logits",
    "lab": "the lab's predictions",
}
"""What is in each folder of a bundle; the rest is the validator."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the patches, the images, the gate, and where it goes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder with the exported model")
    parser.add_argument(
        "--bits",
        type=count,
        help="bit-width of the exported model (default: the only exported one)",
    )
    parser.add_argument(
        "--patches",
        type=Path,
        nargs="+",
        metavar="PATCHES",
        help="patch files (.npz) or folders of them (default: RUN/patches)",
    )
    shared.add_images(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="bundle to write")
    parser.add_argument(
        "--engines",
        nargs="+",
        default=[],
        metavar="NAME",
        help="further engines whose exported files are included, each with its budget: litert, "
        "openvino (the qcdq file), tensorrt, tensorrt-rtx (the tensorrt file)",
    )
    parser.add_argument(
        "--folder",
        action="store_true",
        dest="as_folder",
        help="write a folder instead of one file",
    )
    parser.add_argument(
        "--sign",
        type=Path,
        metavar="KEY",
        dest="signing_key",
        help="Ed25519 private key, PEM (needs cryptography)",
    )
    parser.add_argument(
        "--gate",
        nargs="+",
        metavar="NAME",
        dest="gated",
        help="names of the patch sets that the gate is decided on (default: all)",
    )
    parser.add_argument(
        "--max-asr",
        type=share,
        default=0.3,
        metavar="X",
        help="the attack success rate of each gated patch must be under X, 0 to 1 (default: 0.3)",
    )
    parser.add_argument(
        "--max-drift",
        type=share,
        default=0.02,
        metavar="X",
        help="largest difference to the fake-quantized network's rate (default: 0.02)",
    )
    parser.add_argument(
        "--min-clean",
        type=share,
        metavar="X",
        help="the clean accuracy must be over X, 0 to 1 (default: 5 points under the lower 95%% "
        "bound of the network's clean accuracy in the lab on these images)",
    )
    parser.add_argument(
        "--images",
        type=count,
        metavar="N",
        help="number of the patches' images to include, drawn evenly; fewer images make a "
        "smaller bundle and a weaker proof (default: all)",
    )
    parser.add_argument(
        "--golden",
        type=count,
        default=8,
        metavar="N",
        help="largest number of golden images (default: 8)",
    )
    parser.add_argument(
        "--device-report",
        type=Path,
        action="append",
        default=[],
        metavar="REPORT",
        dest="device_reports",
        help="report.json of a device that validated this bundle: adds the device to the "
        "machines on which the logits are proved identical (may be given several times)",
    )
    shared.add_split(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the bundle and print what names it."""
    from deploy.bundle_contents import Thresholds
    from eval.stages.bundle import BundleSettings
    from qadtr.functions.bundle import bundled
    from training.run_folder import RunFolder

    folder = RunFolder.open(arguments.run, arguments.cache, arguments.data)
    made = bundled(
        folder,
        arguments.patches or [folder.patches],
        arguments.data,
        arguments.out,
        shared.settings_of(
            BundleSettings,
            arguments,
            thresholds=shared.settings_of(Thresholds, arguments),
            golden_images=arguments.golden,
        ),
    )
    print(f"{made.path}  manifest {made.manifest_sha256}")
    print(_megabytes(made.size_bytes))
    print(
        f"gate: ASR under {arguments.max_asr:g}, drift at most {arguments.max_drift:g}, clean "
        f"accuracy over {made.thresholds['min_clean']:g}; on the device: python validate.pyz "
        f"{arguments.out.name}"
    )
    return 0


def _megabytes(size_bytes: Mapping[str, int]) -> str:
    """What the bytes of a bundle's files are, largest first."""
    parts: dict[str, int] = {}
    for path, size in size_bytes.items():
        folder = path.partition("/")[0]
        part = _PARTS.get(folder, "validator")
        parts[part] = parts.get(part, 0) + size
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    words = ", ".join(f"{part} {size / 1e6:.2f}" for part, size in ordered)
    return (
        f"{sum(parts.values()) / 1e6:.2f} MB: {words}; lower --images and --golden make it smaller"
    )
