"""Small vision networks that resist adversarial patches at every bit-width: train to report.

This package holds the `qadtr` command and the names below (docs/api.md). Each name is loaded from
its module when it is first used. Importing this package needs nothing but the standard library.
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
    from deploy.core.patch_set import PatchSet as PatchSet
    from export.adopting import adopt as adopt
    from qadtr.functions.bundle import bundle as bundle
    from qadtr.functions.bundle import validate as validate
    from qadtr.functions.evaluate import adaptive as adaptive
    from qadtr.functions.evaluate import evaluate as evaluate
    from qadtr.functions.export import export as export
    from qadtr.functions.export import lower as lower
    from qadtr.functions.load import load as load
    from qadtr.functions.patch import make_patches as make_patches
    from qadtr.functions.report import report as report
    from qadtr.functions.train import train as train
    from training.data import ImageSet as ImageSet
    from training.own_loop import DefendedLoop as DefendedLoop
    from training.quantize import Network as Network
    from training.quantize import Refused as Refused
    from training.quantize import quantize as quantize
    from training.quantize.calibration import calibrate as calibrate
    from training.run_folder import RunFolder as RunFolder

_HOMES = {
    "DefendedLoop": "training.own_loop",
    "ImageSet": "training.data",
    "Network": "training.quantize",
    "PatchSet": "deploy.core.patch_set",
    "Refused": "training.quantize",
    "RunFolder": "training.run_folder",
    "adaptive": "qadtr.functions.evaluate",
    "adopt": "export.adopting",
    "bundle": "qadtr.functions.bundle",
    "calibrate": "training.quantize.calibration",
    "evaluate": "qadtr.functions.evaluate",
    "export": "qadtr.functions.export",
    "load": "qadtr.functions.load",
    "lower": "qadtr.functions.export",
    "make_patches": "qadtr.functions.patch",
    "quantize": "training.quantize",
    "report": "qadtr.functions.report",
    "train": "qadtr.functions.train",
    "validate": "qadtr.functions.bundle",
}

_NAMES = sorted([*_HOMES, "QadtrError", "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"qadtr has no {name!r}; it has {', '.join(_NAMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return _NAMES
