"""Build ``validate.pyz``: the folder ``deploy/device`` alone, as one file that Python runs."""

from __future__ import annotations

from pathlib import Path

from .device.stored_zip import stored_zip_bytes

PACKAGE = "qadtr_device"
"""The name that ``deploy.device`` has inside: it must not be taken for an installed qadtr."""

_MAIN = f'''"""Run the validator."""

import runpy

runpy.run_module("{PACKAGE}", run_name="__main__", alter_sys=False)
'''


def validator_files() -> dict[str, bytes]:
    """Return the files of the archive by name: our pure Python and its schemas, nothing else."""
    device = Path(__file__).parent / "device"
    files = {"__main__.py": _MAIN.encode("utf-8")}
    for pattern in ("*.py", "schemas/*.json"):
        for path in sorted(device.glob(pattern)):
            files[f"{PACKAGE}/{path.relative_to(device).as_posix()}"] = path.read_bytes()
    return files


def validator_bytes() -> bytes:
    """Return ``validate.pyz``; the same source gives the same bytes."""
    return stored_zip_bytes(validator_files())
