"""The config of a tiny run on scanned digits (16 px)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.checkpoint import RESUME
from training.config import TrainingConfig, config_from_dict
from training.tensors import read_tensors


def small_config(**changes: object) -> TrainingConfig:
    """ResNet-8 on 16 px digits, 32 images a step; ``changes`` replace whole tables."""
    table: dict[str, dict[str, object] | object] = {
        "name": "small",
        "seed": 3,
        "data": {"kind": "digits", "size": 16, "augment": "crop"},
        "network": {"name": "resnet8", "bit_widths": [32, 8, 4, 2]},
        "training": {"epochs": 0.25, "batch_size": 32, "learning_rate": 0.05},
        "defense": {"name": "qat"},
    }
    for key, value in changes.items():
        table[key] = value
    return config_from_dict(table, "test")


def saved(folder: Path) -> dict[str, Any]:
    """What the saved state of the run in ``folder`` says beside its tensors; its step is 0 where
    there is none."""
    path = folder / RESUME
    facts = json.loads(read_tensors(path)[1]["run_state"]) if path.exists() else {"step": 0}
    assert isinstance(facts, dict)
    return facts
