"""The config of a tiny run on scanned digits (16 px)."""

from __future__ import annotations

from training.config import TrainingConfig, config_from_dict


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
