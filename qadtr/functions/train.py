"""`qadtr.train`: one network on one training set, to a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from deploy.core.errors import UsageError
from qadtr.config_files import config_from
from qadtr.functions.load import load
from qadtr.origin import provenance
from training.config import TrainingConfig, config_from_dict, with_settings
from training.data import Images, ImageSet, load_images, split_of
from training.defenses import resolved
from training.devices import torch_device
from training.loop import RunOptions
from training.loop import train as train_loop
from training.quantize import Network
from training.ranks import Ranks
from training.run_folder import RunFolder
from training.validated import as_json


def train(
    what: Network | TrainingConfig | Path | str,
    images: Images | None,
    out: Path | str,
    *,
    epochs: float | None = None,
    defense: str | Mapping[str, Any] | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> RunFolder:
    """Train a network, with a defense or without one, at all of its bit-widths.

    Args:
        what: a network to start from, which is not changed; or a config: a TOML file, or the name
            of one of `qadtr configs`.
        images: the training set in memory, or several sets ("train", "holdout", "test"), or a data
            folder of the config's kind. Without a "holdout" a tenth of each class is held out.
        out: the run folder.
        epochs: over the training set; needed for a network, else the config's.
        defense: a name ("qadtr", "pbat", …, ``package.module:Class``) or a table with its settings;
            None is the config's, or plain quantization-aware training.
        seed: None is the config's, or 0.
        settings: other settings, by their dotted keys: ``{"training.batch_size": 64}``.
        device: torch device.
        resume: continue the interrupted run in ``out``; the result equals that of an uninterrupted
            run byte for byte.
        overwrite: replace the run in ``out``.
        progress: show a bar, or lines if there is no terminal.

    Returns:
        The run. Its folder has the checkpoint, the log and the state for resuming.

    Raises:
        InputError: config, network and images do not fit, or the state to resume is another run's.
        UsageError: there is a run in ``out`` already.
        TrainingDiverged: the loss is no longer finite.

    Example:
        >>> defense = {"name": "qadtr", "sizes_px": [4], "personal_px": 4}
        >>> run = qadtr.train(
        ...     network, [training_set, test_set], "runs/own", epochs=2, defense=defense,
        ...     settings={"training.batch_size": 32, "data.augment": "none"}, progress=False)
        >>> run.defense, run.bit_widths
        ('qadtr', (32, 8, 4))
    """
    changes = dict(settings or {})
    for key, value in (("training.epochs", epochs), ("seed", seed), ("defense", defense)):
        if value is not None:
            changes[key] = {"name": value} if key == "defense" and isinstance(value, str) else value
    folder = Path(out)
    config, network = _config(what, changes, folder.resolve().name)
    if isinstance(images, Path | str | None):
        data = None if images is None else Path(images)
        sets = [
            load_images(config.data.kind, data, split, size=config.data.size)
            for split in ("train", "holdout")
        ]
    else:
        data = None
        sets = [split_of(images, split) for split in ("train", "holdout")]
    height, width = sets[0].images.shape[2:]
    config = resolved(config, (height, width))
    if resume and overwrite:
        raise UsageError("resume and overwrite exclude each other; give one of the two")
    torch_device(device)
    options = RunOptions(
        resume=resume,
        overwrite=overwrite,
        device=device,
        progress=progress,
        data=data,
        in_memory=not isinstance(images, Path | str | None),
    )
    train_config(config, sets[0], sets[1], folder, options, network=network)
    return load(folder, images)


def train_config(
    config: TrainingConfig,
    training_set: ImageSet,
    holdout: ImageSet,
    folder: Path,
    options: RunOptions,
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    *,
    network: Network | None = None,
) -> Path:
    """The training itself, with the provenance for its sidecar; `qadtr train` calls this too."""
    return train_loop(
        config,
        training_set,
        holdout,
        folder,
        options,
        partial(
            provenance,
            seed=config.seed,
            config=config.published(),
            data={"name": training_set.name, "digest": training_set.digest},
        ),
        ranks,
        network,
    )


def _config(
    what: Network | TrainingConfig | Path | str, changes: dict[str, Any], name: str
) -> tuple[TrainingConfig, Network | None]:
    if isinstance(what, TrainingConfig | Network):
        table = what.as_dict() if isinstance(what, TrainingConfig) else _table_of(what, name)
        config = config_from_dict(with_settings(table, changes), "the settings of the training")
        return config, what if isinstance(what, Network) else None
    return config_from(str(what), changes), None


def _table_of(network: Network, name: str) -> dict[str, Any]:
    """A config for a network in memory."""
    return {
        "name": name,
        "seed": 0,
        "data": {"kind": "npz"},
        "network": as_json(network.spec.settings),
        "training": {},
    }
