"""Build ``validate.pyz``: ``deploy/core`` and ``deploy/device``, as one file that Python runs."""

from __future__ import annotations

from pathlib import Path

from .core.stored_zip import stored_zip_bytes

PACKAGE = "qadtr_device"
"""The name that ``deploy`` has inside: it must not be taken for an installed qadtr."""

FOLDERS = ("core", "device")

REFUSE_OLD_PYTHONS = """\
if sys.version_info < (3, 10):
    found = "%d.%d" % sys.version_info[:2]
    sys.stderr.write("validate: needs Python 3.10 or newer, this is " + found + "\\n")
    sys.exit(2)
"""
"""Stands in files that every Python since 2.7 must be able to read."""

_MAIN = f'''"""Run the validator."""

import runpy
import sys

{REFUSE_OLD_PYTHONS}runpy.run_module("{PACKAGE}.device", run_name="__main__", alter_sys=False)
'''

_COMPARE = f'''"""``python -m {PACKAGE}.compare_command``: the comparison under its short name."""

import sys

from .device.compare_command import main

if __name__ == "__main__":
    sys.exit(main())
'''


def validator_files() -> dict[str, bytes]:
    """Return the files of the archive by name: our pure Python and its schemas, nothing else."""
    deploy = Path(__file__).parent
    files = {
        "__main__.py": _MAIN.encode("utf-8"),
        f"{PACKAGE}/__init__.py": b"",
        f"{PACKAGE}/compare_command.py": _COMPARE.encode("utf-8"),
    }
    for folder in FOLDERS:
        for pattern in ("*.py", "schemas/*.json"):
            for path in sorted((deploy / folder).glob(pattern)):
                files[f"{PACKAGE}/{path.relative_to(deploy).as_posix()}"] = path.read_bytes()
    return files


def validator_bytes() -> bytes:
    """Return ``validate.pyz``; the same source gives the same bytes."""
    return stored_zip_bytes(validator_files())
