"""Small vision networks that resist adversarial patches at every bit-width: train to report.

This package is the face: the `qadtr` command, and the names below (docs/api.md), each loaded from
its home when it is first used. Importing this package needs nothing but the standard library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qadtr.clash import require_own_packages

require_own_packages()

# Not lazily: importing the ground turns the engines' telemetry off before anything imports them.
from deploy.core.errors import QadtrError as QadtrError  # noqa: E402

__version__ = "0.1.0"

if TYPE_CHECKING:
    from export.adopting import adopt as adopt
    from training.checkpoint import load_network as load_network
    from training.data import ImageSet as ImageSet
    from training.data import images_from_arrays as images_from_arrays
    from training.data import load_images as load_images
    from training.data import write_arrays as write_arrays
    from training.quantize import Network as Network
    from training.quantize import Refused as Refused
    from training.quantize import quantize as quantize
    from training.quantize.calibration import calibrate as calibrate

_HOMES = {
    "ImageSet": "training.data",
    "Network": "training.quantize",
    "Refused": "training.quantize",
    "adopt": "export.adopting",
    "calibrate": "training.quantize.calibration",
    "images_from_arrays": "training.data",
    "load_images": "training.data",
    "load_network": "training.checkpoint",
    "quantize": "training.quantize",
    "write_arrays": "training.data",
}

_NAMES = sorted([*_HOMES, "QadtrError", "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"qadtr has no {name!r}; it has {', '.join(_NAMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return _NAMES
