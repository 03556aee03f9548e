"""Which ONNX Runtime a file needs: measured, by what the file stores and declares.

Files of this project's integer target were loaded and run in the releases 1.15.1, 1.18.1, 1.20.1,
1.22.1, 1.23.0, 1.23.2, 1.24.1 and 1.24.4 (x86-64), SpaceToDepth also in those up to 1.28.0. The
versions below are the oldest of these that ran them and gave the logits of the newest. Older ones
fail with "unsupported IR version", or have no kernel for a Cast of 4-bit weights or for blocks of
bytes.
"""

from __future__ import annotations

import re

from .onnx_operators import OnnxFile, asks_for_integers

OLDEST = "1.15.1"
"""For files of 8-bit weights; ``--storage int8`` makes such a file at every bit-width."""

OLDEST_FOR_NUMPY_2 = "1.19"
"""Older ones were compiled for numpy 1 and do not import beside numpy 2."""

_BY_TYPE = {
    22: ("its 4-bit weights", "1.23.0"),
    21: ("its 4-bit weights", "1.23.0"),
    26: ("its 2-bit weights", "1.24.1"),
    25: ("its 2-bit weights", "1.24.1"),
}
"""By ONNX's element type: INT4, UINT4, INT2, UINT2."""

_BY_OPERATOR = {"SpaceToDepth": ("its SpaceToDepth of bytes", "1.28.0")}
"""In a file for integers."""

_BY_IR_VERSION = ((10, "1.18.1"), (11, "1.23.0"), (12, "1.24.1"))
"""From this IR version on."""


def oldest_onnxruntime(found: OnnxFile) -> str:
    """Return the oldest version in which such a file ran, such as "1.23.0"."""
    return _need(found)[1]


def _need(found: OnnxFile) -> tuple[str, str]:
    """The feature of a file that needs the newest version, and that version."""
    needs = [("its operators", OLDEST)]
    needs += [
        (f"IR version {found.ir_version}", version)
        for ir_version, version in _BY_IR_VERSION
        if found.ir_version >= ir_version
    ]
    needs += [need for data_type, need in _BY_TYPE.items() if data_type in found.stored]
    if asks_for_integers(found.operators):
        needs += [need for name, need in _BY_OPERATOR.items() if name in found.operators]
    return max(reversed(needs), key=lambda need: version_key(need[1]))


def version_key(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to compare: (1, 23) of "1.23.0rc1", () where there are none.

    Text after the numbers is ignored, and so are trailing zeros.
    """
    release = re.match(r"v?([0-9]{1,9}(\.[0-9]{1,9})*)", version.strip())
    numbers = [int(number) for number in release[1].split(".")] if release else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def why_too_old(found: OnnxFile, version: str) -> str | None:
    """Return what an ONNX Runtime of this version lacks for a file; None where it is new enough, or
    its version has no numbers."""
    what, oldest = _need(found)
    if not version_key(version) or version_key(version) >= version_key(oldest):
        return None
    text = f"it needs onnxruntime {oldest} or newer for {what}; upgrade it"
    if version_key(oldest) > version_key(OLDEST) and asks_for_integers(found.operators):
        text += f", or export the model with --storage int8 (from {OLDEST})"
    return text
