"""A run's folder: where each stage finds the files of the one before.

checkpoint.safetensors, checkpoint.json   the network (training.checkpoint)
run.json                                  what it was started with (training.run_start)
log.jsonl, resume/, tensorboard/          of the training
export/                                   model files, certificates and parity (export)
patches/                                  patch sets made on this network (eval)
records/                                  one JSON per result
report.html

The folder of an adopted file (export.adopting) has adopted.json in place of the first two, and no
network in torch: its checkpoint is a foreign model file.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from deploy.core.errors import InputError
from deploy.core.model_contents import ADOPTED, suffix_of, target_of
from deploy.core.patch_origin import PatchSource
from deploy.core.strict_json import read_json
from training.checkpoint import CHECKPOINT, load_network, read_sidecar, save_checkpoint, spec_of
from training.data import Images, ImageSet, load_images, split_of
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.run_lock import require_free
from training.run_start import read_start
from training.validated import as_json

ADOPTED_SIDECAR = "adopted.json"
"""Of an adopted file, in its run folder."""

ADOPTED_FORMAT, ADOPTED_FORMAT_VERSION = "qadtr-adopted", 1


def is_run(path: Path) -> bool:
    """Whether :meth:`RunFolder.open` can read a folder."""
    return any((path / name).is_file() for name in (CHECKPOINT, ADOPTED_SIDECAR))


@dataclass(frozen=True, kw_only=True, eq=False)
class RunFolder:
    """A finished training run, or an adopted file in place of one.

    Attributes:
        path: the folder.
        sidecar: of its checkpoint, checked against the weights when it was opened.
        cache: where `images` keeps decoded images; None: in memory.
        data: the images given for the run, on opening or when its training was started: a data
            folder, or splits in memory.
    """

    path: Path
    sidecar: Mapping[str, Any]
    cache: Path | None = None
    data: Images | None = None

    @classmethod
    def open(cls, path: Path, cache: Path | None = None, data: Images | None = None) -> Self:
        """The run in the folder `path`; `cache` as in :func:`training.data.load_images`.

        Args:
            data: the data folder, or splits in memory; None takes the folder of the training, where
                the run records it.

        Raises:
            InputError: there is no such folder, or no complete checkpoint in it.
        """
        if path.is_file():
            raise InputError(
                f"expected a run folder of `qadtr train`, but {path} is a file; for an ONNX file "
                f"of your own, `qadtr adopt {path} --data DIR --out RUN` makes a run folder, "
                f"`qadtr inspect {path}` lists what it runs, and `qadtr lower {path} --out FILE` "
                "makes an all-integer file of a quantized one"
            )
        if not path.is_dir():
            known = sorted(one.name for one in path.parent.glob("*") if is_run(one))
            close = difflib.get_close_matches(path.name, known, n=1)
            meant = f"did you mean {path.parent / close[0]}? " if close else ""
            raise InputError(
                f"there is no run folder {path}; {meant}make it with: qadtr train CONFIG "
                f"--out {path}"
            )
        if (path / ADOPTED_SIDECAR).is_file():
            sidecar = _adopted_sidecar(path / ADOPTED_SIDECAR)
            if data is None and sidecar["data"] is not None:
                data = Path(sidecar["data"])
            return cls(path=path, sidecar=sidecar, cache=cache, data=data)
        start = read_start(path)
        sidecar = read_sidecar(path / CHECKPOINT)
        lacking = sorted({"config", "classes", "network", "sha256"} - set(sidecar))
        if lacking:
            raise InputError(
                f"{path / CHECKPOINT}: its sidecar lacks {', '.join(lacking)}, so `qadtr train` "
                "did not write it; train again"
            )
        _require_facts(sidecar, path / CHECKPOINT)
        if data is None and start is not None:
            data = start.data
        return cls(path=path, sidecar=sidecar, cache=cache, data=data)

    @classmethod
    def from_network(
        cls,
        network: Network,
        path: Path | str,
        images: Images,
        *,
        seed: int = 0,
        defense: str | None = None,
        kind: str = "npz",
        overwrite: bool = False,
    ) -> Self:
        """Make a run folder for a network from the user's own loop, or from calibration alone.

        Args:
            network: trained or calibrated; it is left in evaluation mode.
            path: the folder, made if missing.
            images: sets in memory, one of them "train", for their classes; later stages use them.
            seed: of the training, for the records.
            defense: the name of the training in tables ("qat" is plain); None: "calibrated" where
                nothing was trained since, else "own loop".
            kind: the kind of data that the command line will find in ``--data``
                (:data:`ImageSet.write`).
            overwrite: replace an existing run.

        Raises:
            UsageError: the folder already holds a run.
            InputError: the network has another number of classes, or takes other images; or it has
                neither been trained nor calibrated.

        Example:
            >>> run = qadtr.RunFolder.from_network(network, "runs/calibrated", training_set)
            >>> run.bit_widths, run.classes
            ((32, 8, 4), ('a', 'b', 'c'))
        """
        sets = [split_of(images, "train")] if not isinstance(images, Path) else []
        if not sets:
            raise InputError(f"expected images in memory, got the folder {images}")
        classes, shape = sets[0].classes, sets[0].images.shape[1:]
        if network.plan.classes != len(classes) or network.plan.input_shape != shape:
            raise InputError(
                f"the network takes images of {network.plan.input_shape} in "
                f"{network.plan.classes} classes, got {shape} in {len(classes)}"
            )
        path = Path(path)
        if not overwrite:
            require_free(path)
        if defense is None:
            defense = "calibrated" if network.calibrated else "own loop"
        config = {
            "name": path.resolve().name,
            "seed": seed,
            "data": {"kind": kind, "size": shape[1]},
            "network": as_json(network.spec.settings),
            "defense": {"name": defense},
        }
        facts = {"classes": list(classes), "config": config}
        save_checkpoint(path / CHECKPOINT, network.finished(), facts)
        return cls.open(path, data=images)

    def command(self, name: str, *words: str) -> str:
        """A command line on this run, as the user types it, with its images where it has some."""
        data = ["--data", str(self.data)] if isinstance(self.data, Path) else []
        return shlex.join(["qadtr", name, str(self.path), *data, *words])

    @property
    def checkpoint(self) -> Path:
        """The file of the weights."""
        return self.path / CHECKPOINT

    @property
    def adopted(self) -> bool:
        """Whether it is a foreign model file, without a network in torch."""
        return self.sidecar.get("format") == ADOPTED_FORMAT

    @property
    def attack(self) -> str:
        """The attack that a remedy names: gradient-free where the run has no gradients."""
        return "sparse-rs" if self.adopted else "lavan"

    @property
    def checkpoint_sha256(self) -> str:
        """SHA-256 (hex) of the weights' file, or of the file that was adopted."""
        return str(self.sidecar["sha256"])

    @property
    def spec(self) -> NetworkSpec:
        """The specification of its network."""
        return spec_of(self.sidecar, self.checkpoint)

    @property
    def network_name(self) -> str:
        """Architecture, such as resnet8."""
        return self.spec.name

    @property
    def bit_widths(self) -> tuple[int, ...]:
        """The bit-widths of the network, widest first; 32 is float."""
        return self.spec.bit_widths

    def chosen_bit_widths(self, wanted: Sequence[int] | None) -> tuple[int, ...]:
        """``wanted``, or all where None.

        Raises:
            InputError: the network lacks one of them.
        """
        if wanted is None:
            return self.bit_widths
        lacking = [bits for bits in wanted if bits not in self.bit_widths]
        if lacking:
            raise InputError(
                f"{self.path} has no bit-width {', '.join(map(str, lacking))}; it has "
                f"{', '.join(map(str, self.bit_widths))}"
            )
        return tuple(wanted)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; the index of a name is its label."""
        return tuple(str(name) for name in self.sidecar["classes"])

    @property
    def defense(self) -> str:
        """Name of the defense that it was trained with, "qat" for none."""
        return str(self.sidecar["config"]["defense"]["name"])

    @property
    def seed(self) -> int | None:
        """The seed of the training; None for an adopted file, which does not record one."""
        seed = self.sidecar["config"]["seed"]
        return None if seed is None else int(seed)

    @property
    def records(self) -> Path:
        """The folder of the run's records."""
        return self.path / "records"

    @property
    def patches(self) -> Path:
        """The folder of the patch sets made on the run."""
        return self.path / "patches"

    def about(self) -> PatchSource:
        """The run as the source of patches, in the form that their sidecars record."""
        return PatchSource(
            network=self.network_name,
            defense=self.defense,
            checkpoint_sha256=self.checkpoint_sha256,
            seed=self.seed,
        )

    def model_file(self, bits: int, engine: str = "onnxruntime") -> Path:
        """The path of the file for an engine, or of a target, at one bit-width, made or not."""
        if self.adopted:
            return self.path / "export" / f"{ADOPTED}-{bits}{suffix_of(ADOPTED)}"
        return self.path / "export" / f"{target_of(engine)}-{bits}{suffix_of(engine)}"

    def exported(
        self, wanted: Sequence[int] | None = None, engine: str = "onnxruntime"
    ) -> tuple[int, ...]:
        """``wanted``, or the bit-widths that have a file for the engine, or of the target.

        Raises:
            InputError: a bit-width has no file, or there is no file at all; the message has the
                command that makes it.
        """
        there = self.bit_widths_with_file(engine)
        chosen = there if wanted is None else tuple(wanted)
        missing = [bits for bits in chosen if bits not in there]
        if missing or not chosen:
            named = " ".join(map(str, missing))
            if self.adopted:
                raise InputError(
                    f"{self.path} was adopted from {self.sidecar['source']} and has one model, "
                    f"at {', '.join(map(str, there)) or 'no'} bits, but none at "
                    f"{named or 'others'}"
                )
            target = target_of(engine)
            words = ["--bits", *map(str, missing)] if missing else []
            words += [] if target == "onnxruntime" else ["--target", target]
            raise InputError(
                f"{self.path} has no exported model{f' at {named} bits' if named else ''} "
                f"(exported: {', '.join(map(str, there)) or 'none'}); make it with: "
                f"{self.command('export', *words)}"
            )
        return chosen

    def bit_widths_with_file(self, engine: str = "onnxruntime") -> tuple[int, ...]:
        """The bit-widths that have a file for the engine, or of the target, widest first."""
        return tuple(bits for bits in self.bit_widths if self.model_file(bits, engine).is_file())

    def load_network(self) -> Network:
        """The network in evaluation mode.

        Raises:
            InputError: as `training.checkpoint.load_network`; an adopted file has none.
        """
        if self.adopted:
            raise InputError(
                f"{self.path} was adopted from {self.sidecar['source']}: there is no network in "
                "torch to train, export or follow gradients in; eval, patch --attack sparse-rs, "
                "patches made elsewhere, certify, bundle, compare and report work on it"
            )
        return load_network(self.checkpoint)

    def images(self, data: Images | None, split: str) -> ImageSet:
        """One split of the kind of data that the run was trained on, in the same size.

        Args:
            data: the data folder, or splits in memory; None takes the run's own, where it records
                some and needs some.
            split: "train", "holdout" or "test".

        Raises:
            InputError: the images are missing or damaged, or have other classes than the run's.
        """
        settings = self.sidecar["config"]["data"]
        data = self.data if data is None else data
        if data is None or isinstance(data, Path):
            size = settings["size"]
            images = load_images(settings["kind"], data, split, size=size, cache=self.cache)
        else:
            images = split_of(data, split)
        if images.classes != self.classes:
            where = data if isinstance(data, Path) else images.name
            raise InputError(
                f"the images of {where} have the classes {', '.join(images.classes)}, but "
                f"{self.path} was trained on {', '.join(self.classes)}; give the data that it was "
                "trained on"
            )
        return images


def _adopted_sidecar(path: Path) -> dict[str, Any]:
    """The sidecar of an adopted file, checked; InputError where it is damaged."""
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != ADOPTED_FORMAT:
        raise InputError(f"{path} was not written by `qadtr adopt`; adopt the file again")
    if found.get("format_version") != ADOPTED_FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {found.get('format_version')!r}, but this qadtr reads "
            f"{ADOPTED_FORMAT_VERSION}; use the qadtr that wrote it, or adopt the file again"
        )
    needed = {"classes", "config", "data", "network", "sha256", "source"}
    lacking = sorted(needed - set(found))
    if lacking:
        raise InputError(f"{path} lacks {', '.join(lacking)}: it is damaged; adopt the file again")
    _require_facts(found, path)
    if not isinstance(found["data"], str | None):
        raise InputError(f"{path} is damaged: its data is not a path; adopt the file again")
    return found


def _require_facts(sidecar: Mapping[str, Any], path: Path) -> None:
    """Refuse a sidecar whose facts, which every later stage reads, have the wrong type."""
    classes, config = sidecar["classes"], sidecar["config"]
    defense = config.get("defense") if isinstance(config, dict) else None
    for what, fits in (
        ("classes", isinstance(classes, list) and all(isinstance(one, str) for one in classes)),
        ("config.defense.name", isinstance(defense, dict) and type(defense.get("name")) is str),
        ("config.seed", isinstance(config, dict) and type(config.get("seed", "")) in _SEEDS),
    ):
        if not fits:
            raise InputError(
                f"{path}: the {what} of its sidecar is missing or of another type, so the "
                "sidecar is damaged; copy the run again, or make it again"
            )


_SEEDS = (int, type(None))
