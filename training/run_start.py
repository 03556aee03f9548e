"""What a run was started with, stored in its folder: ``--resume`` needs only that folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.errors import InputError
from deploy.core.files import write_atomic
from deploy.core.strict_json import json_bytes, read_json
from training.config import TrainingConfig, flat_settings
from training.defenses import config_of_run
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.plan_file import read_plan

START = "run.json"
FORMAT, FORMAT_VERSION = "qadtr-run", 1


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """The resolved config of a run and how it was started.

    Attributes:
        data, cache: folders of the images, as paths from anywhere; None where not given.
        images_sha256: digest of the training images.
        device: torch device.
        save_every: steps between two states.
        in_memory: whether the images were given in memory, so that no folder is known.
        network: for a training that started from a network in memory, the ``plan`` and the
            ``sha256`` of its tensors: continuing does not need the code that made it.
        warm_start_sha256: of the file that ``training.warm_start`` names, which continuing does not
            read again; None where there is none, or in a run of an earlier version.
    """

    config: Mapping[str, Any]
    data: Path | None
    cache: Path | None
    images_sha256: str
    device: str
    save_every: int
    in_memory: bool = False
    network: Mapping[str, Any] | None = None
    warm_start_sha256: str | None = None

    def write(self, folder: Path) -> None:
        """Write it into the run's folder.

        Raises:
            InputError: the folder is not writable.
        """
        places = {name: getattr(self, name) for name in ("data", "cache")}
        about = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "config": dict(self.config),
            **{name: None if path is None else str(path) for name, path in places.items()},
            "images_sha256": self.images_sha256,
            "device": self.device,
            "save_every": self.save_every,
            "in_memory": self.in_memory,
            "network": None if self.network is None else dict(self.network),
            "warm_start_sha256": self.warm_start_sha256,
        }
        write_atomic(folder / START, json_bytes(about))

    def training_config(self, folder: Path) -> TrainingConfig:
        """The config, checked; InputError as :func:`training.defenses.config_of_run`."""
        return config_of_run(self.config, str(folder / START))

    def require_same(self, config: TrainingConfig, images_sha256: str, folder: Path) -> None:
        """Refuse to continue the run in ``folder`` with another config or other images.

        A setting that did not exist in the version that started the run has the value that changes
        nothing.

        Raises:
            InputError: a setting differs; the message names each one, with the run's value and the
                given one.
        """
        before = flat_settings(self.training_config(folder).as_dict())
        after = flat_settings(config.as_dict())
        different = [
            f"{key} is {after.get(key)!r}, but the run has {before.get(key)!r}"
            for key in dict.fromkeys([*before, *after])
            if before.get(key) != after.get(key)
        ]
        if different:
            raise InputError(
                f"{folder} belongs to a run with another config: {'; '.join(different)}; continue "
                f"it as it was started: qadtr train --resume --out {folder}"
            )
        if self.images_sha256 != images_sha256:
            cure = "give the --data that it was started with"
            raise InputError(
                f"{folder} belongs to a run on other images ({self.images_sha256[:12]}…, not "
                f"{images_sha256[:12]}…); {from_memory(folder) if self.in_memory else cure}"
            )

    def built(self, spec: NetworkSpec, folder: Path) -> Network | None:
        """The network in memory that the training started from, without its weights; None where it
        started from what the config names.

        Raises:
            InputError: the plan is damaged.
        """
        if self.network is None:
            return None
        return Network(spec, read_plan(self.network.get("plan"), f"{folder / START}: plan"))


def from_memory(folder: Path) -> str:
    """How a training on images in memory is continued."""
    return (
        "its images were in memory; write the training images, as they were given, with "
        f"images.write(DIR) and run qadtr train --resume --out {folder} --data DIR; if your own "
        "hold-out was given too, continue from Python with the same arguments: "
        f"qadtr.train(network, images, {str(folder)!r}, resume=True, …)"
    )


def read_start(folder: Path) -> RunStart | None:
    """What the run in the folder was started with; None for one of an earlier version, or where
    there is no run.

    Raises:
        InputError: the file is damaged, or of another version.
    """
    path = folder / START
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{path} was not written by `qadtr train`; give the config to --resume")
    try:
        if found["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{path} has format version {found['format_version']!r}, but this qadtr reads "
                f"{FORMAT_VERSION}; use the qadtr that wrote it, or give the config to --resume"
            )
        return RunStart(
            config=dict(found["config"]),
            data=None if found["data"] is None else Path(found["data"]),
            cache=None if found["cache"] is None else Path(found["cache"]),
            images_sha256=str(found["images_sha256"]),
            device=str(found["device"]),
            save_every=int(found["save_every"]),
            in_memory=bool(found.get("in_memory", False)),
            network=None if found.get("network") is None else dict(found["network"]),
            warm_start_sha256=found.get("warm_start_sha256"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {error}); give the config to --resume"
        ) from error
