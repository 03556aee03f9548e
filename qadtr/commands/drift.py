"""`qadtr drift`: where the attack success rate moved between the lab and the engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from qadtr.arguments import count
from qadtr.commands import shared

HELP = "split a bundle's drift into rounding, preprocessing, export, engine and device"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bundle, its run, and the report of a device."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle file or folder")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder that it was made from")
    parser.add_argument(
        "--device-report",
        type=Path,
        metavar="F.json",
        help="report.json of a device that validated this bundle: adds the step from the "
        "engine to that device",
    )
    parser.add_argument(
        "--device-inputs",
        type=Path,
        metavar="F.npz",
        help="the bytes that the device's program fed to its engine (default: the bytes of "
        "the images)",
    )
    parser.add_argument(
        "--float-patches",
        type=Path,
        metavar="F.npz",
        help="the patches before they became bytes (default: the bundle's bytes)",
    )
    parser.add_argument(
        "--engine", default="onnxruntime", help="engine to run (default: onnxruntime)"
    )
    parser.add_argument(
        "--threads", type=count, default=1, help="threads of the engine (default: 1)"
    )
    parser.add_argument(
        "--require-signature",
        type=Path,
        metavar="PUB",
        help="refuse a bundle that was not signed with this public key's private key",
    )
    parser.add_argument(
        "--html", type=Path, metavar="F", help="also write a page with the images that flipped"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the steps of each patch."""
    from deploy.core.files import write_atomic
    from eval.report.drift import drift_page, drift_table
    from eval.stages.drift import DriftSettings, drift_of_bundle
    from training.run_folder import RunFolder

    folder = RunFolder.open(arguments.run)
    drift = drift_of_bundle(
        arguments.bundle,
        folder,
        shared.settings_of(DriftSettings, arguments, public_key=arguments.require_signature),
        shared.provenance(seed=folder.seed),
    )
    print("\n\n".join(drift_table(one, drift.attacks) for one in drift.found))
    if arguments.html is not None:
        write_atomic(arguments.html, drift_page(drift).encode("utf-8"))
        print(f"\n{arguments.html}")
    return 0
