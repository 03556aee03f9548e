"""`qadtr validator`: write `validate.pyz`, the part that runs on the device."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write validate.pyz, which checks bundles on a device"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it goes."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("validate.pyz"),
        metavar="FILE",
        help="file to write (default: validate.pyz)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write it and print its SHA-256; the same release gives the same bytes."""
    from deploy.core.files import sha256_of_bytes, write_atomic
    from deploy.validator_archive import validator_bytes

    data = validator_bytes()
    write_atomic(arguments.out, data)
    print(f"{arguments.out}  {len(data) / 1000:,.1f} kB  SHA-256 {sha256_of_bytes(data)}")
    return 0
