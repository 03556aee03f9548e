"""The stage "defenses": several defenses trained, exported and attacked alike, and one table.

A row is a config ``FAMILY-ROW.toml``. Each is trained, exported and evaluated in ONNX Runtime
against the patches of the family's ``source`` network (the transfer columns) and against patches
made on the row's own network at its widest bit-width (the white-box columns), each per image
(LaVAN) and universal (GAP), at each size. What is there already is not made again, so the same
call continues an interrupted one, and two processes may make different rows of one folder once the
source's patches are there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from deploy.core.errors import InputError, QadtrError
from deploy.core.files import sha256_of
from deploy.core.records import provenance
from deploy.core.strict_json import write_json
from eval.attacks import attack_from_settings
from eval.measure.defenses import TABLE, Files, table_from_runs
from eval.stages.evaluate import EvaluationSettings, evaluate_runs
from eval.stages.patch import PatchRunSettings, make_patches
from export.export_run import ExportSettings, export_run
from training.checkpoint import CHECKPOINT, RESUME
from training.config import TrainingConfig, load_config
from training.data import ImageSet, load_images
from training.data.subset import chosen_indices
from training.defenses import config_of_run, resolved
from training.devices import torch_device
from training.dry_run import DryRun, dry_run
from training.loop import RunOptions, train
from training.quantizers import FLOAT
from training.run_folder import RunFolder

logger = logging.getLogger(__name__)

ROWS = (
    "plain",
    "pbat",
    "dwq",
    "triqdef",
    "aqapa",
    "aqapa-dbwt",
    "gir-noise",
    "gir-penalty",
    "full",
)
"""The rows by default. ``dbwt`` alone trains what ``plain`` trains, to the byte, and is left out;
``plain-8bit`` … ``plain-2bit`` are plain QAT of one bit-width each."""

PLAIN, SOURCE = "plain", "source"
"""The row of plain QAT, and the attacker's float network."""

ATTACKS = {"per-image": "lavan", "universal": "gap"}
PARITY_IMAGES = 500


@dataclass(frozen=True, kw_only=True)
class DefensesSettings:
    """What the table is made of.

    Attributes:
        configs: folder of the configs.
        family: first part of their names.
        rows: the rest of their names, in the order of the table.
        reference: row that differences are taken to.
        source: a finished float run that takes the place of the family's source.
        warm_start: float checkpoint that every row starts from (not the source).
        epochs: of every training; None: the configs'.
        settings: further settings of every training, by dotted key.
        sizes_px: sides of the patches.
        split: of the images that patches are tried on: choose settings on "holdout".
        images: of a transfer cell.
        made_from: training images of a universal patch.
        steps: of the transferred patches.
        own_images: of a white-box cell; 0: no such column.
        own_steps: of the white-box patches.
        device: torch device of trainings and attacks.
    """

    configs: Path
    family: str = "cifar10-resnet8"
    rows: tuple[str, ...] = ROWS
    reference: str = "full"
    source: Path | None = None
    warm_start: Path | None = None
    epochs: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    sizes_px: tuple[int, ...] = (6, 8)
    split: str = "test"
    images: int = 2000
    made_from: int = 5000
    steps: int = 100
    own_images: int = 2000
    own_steps: int = 100
    device: str = "cpu"

    def config(self, row: str) -> TrainingConfig:
        """The resolved config of a row, or of the source.

        Raises:
            InputError: there is none, or a setting is not valid.
        """
        changed = dict(self.settings)
        if self.epochs is not None:
            changed["training.epochs"] = self.epochs
        if self.warm_start is not None and row != SOURCE:
            changed["training.warm_start"] = str(self.warm_start)
        return resolved(load_config(self.configs / f"{self.family}-{row}.toml", changed))

    @property
    def columns(self) -> dict[str, tuple[str, int]]:
        """Kind and size in pixels of the patches, by name such as "per-image-8"."""
        return {f"{kind}-{px}": (kind, px) for kind, px in product(ATTACKS, self.sizes_px)}


@dataclass(frozen=True, kw_only=True)
class Defenses:
    """The folder of one table, with everything needed to make what is missing in it.

    Attributes:
        settings: what the table is made of.
        out: folder of the runs, the patches and the table.
        repository: the checkout that the code runs from, for the records.
    """

    settings: DefensesSettings
    data: Path | None
    out: Path
    repository: Path | None = None

    def make(self) -> dict[str, str]:
        """Make what is missing; of the rows that failed the reason, by name.

        Raises:
            QadtrError: the source could not be trained or attacked, or the device is not here.
        """
        torch_device(self.settings.device)
        transferred = self._patches(SOURCE, self._trained(SOURCE))
        failed = {}
        for row in self.settings.rows:
            try:
                run = self._trained(row)
                self._exported(run)
                own = self._patches(row, run) if self.settings.own_images else []
                for patches in (transferred, own):
                    self._evaluated(run, patches)
            except Exception as error:
                failed[row] = str(error)
                unexpected = not isinstance(error, QadtrError)
                logger.error(
                    "%s: %s; continuing with the other rows", row, error, exc_info=unexpected
                )
        return failed

    def table(self, failed: Mapping[str, str]) -> dict[str, Any]:
        """Write ``defense-table.json`` from the records that there are, and return it.

        Raises:
            NothingToEvaluate: there are none.
        """
        settings = self.settings
        runs = {
            row: self.out / row for row in settings.rows if (self.out / row / CHECKPOINT).is_file()
        }

        def files(row: str, path: Path) -> Files:
            if not (path / CHECKPOINT).is_file():
                return {}
            made = self._files(row, RunFolder.open(path))
            return {name: file for name, file in made.items() if file.is_file()}

        table = table_from_runs(
            runs,
            transferred=files(SOURCE, settings.source or self.out / SOURCE),
            own={row: files(row, path) for row, path in runs.items()},
            reference=settings.reference,
            plain=PLAIN,
            split=settings.split,
        )
        table |= {"family": settings.family, "split": settings.split, "failed": dict(failed)}
        write_json(self.out / TABLE, {**table, "provenance": self._facts()})
        return table

    def costs(self) -> dict[str, DryRun]:
        """What each training would cost, from ten real steps; writes nothing."""
        options = RunOptions(device=self.settings.device)
        costs = {}
        for row in (SOURCE, *self.settings.rows):
            config = self.settings.config(row)
            costs[row] = dry_run(config, *self._images(config), options)
        return costs

    def _facts(self, **more: Any) -> dict[str, Any]:
        return provenance(repository=self.repository, **more)

    def _images(self, config: TrainingConfig) -> tuple[ImageSet, ImageSet]:
        kind, size = config.data.kind, config.data.size
        training, holdout = (
            load_images(kind, self.data, split, size=size) for split in ("train", "holdout")
        )
        return training, holdout

    def _trained(self, row: str) -> RunFolder:
        """The run of a row, trained to its end."""
        path = self.out / row
        if row == SOURCE and self.settings.source is not None:
            run = RunFolder.open(self.settings.source)
            if run.bit_widths != (FLOAT,):
                raise InputError(
                    f"--source expects a run with only bit-width 32, but {run.path} has "
                    f"{run.bit_widths}; give a float run"
                )
            return run
        config = self.settings.config(row)
        if (path / CHECKPOINT).is_file():
            run = RunFolder.open(path)
            _check_same(run, config)
            return run
        logger.info("%s: training", row)
        training, holdout = self._images(config)
        train(
            config,
            training,
            holdout,
            path,
            RunOptions(resume=(path / RESUME).is_file(), device=self.settings.device),
            lambda: self._facts(
                seed=config.seed,
                config=config.published(),
                data={"name": training.name, "digest": training.digest},
            ),
        )
        return RunFolder.open(path)

    def _exported(self, run: RunFolder) -> None:
        missing = [bits for bits in run.bit_widths if not run.model_file(bits).is_file()]
        if missing:
            logger.info("%s: export", run.path.name)
            holdout = run.images(self.data, "holdout").images
            shown = holdout[chosen_indices(len(holdout), min(PARITY_IMAGES, len(holdout)))]
            export_run(run, missing, shown, ExportSettings(), self._facts(seed=run.seed))

    def _files(self, row: str, run: RunFolder) -> dict[str, Path]:
        """The patch files of a row's run by column, in the table's own folder: a source may be
        somebody else's run. The name has all that a call may change, so that patches of another
        source are not taken for this one's."""
        settings = self.settings
        images, steps = settings.own_images, settings.own_steps
        if row == SOURCE:
            images, steps = settings.images, settings.steps
        folder = self.out / row / "patches"
        files = {}
        for name, (kind, _) in settings.columns.items():
            made_from = f"-from-{settings.made_from}" if kind == "universal" else ""
            told = f"{settings.split}-{images}-{steps}{made_from}-{run.checkpoint_sha256[:8]}"
            files[name] = folder / f"{name}-{told}.npz"
        return files

    def _patches(self, row: str, run: RunFolder) -> list[Path]:
        """The patch files made on a row's run at its widest bit-width."""
        settings = self.settings
        of_source = row == SOURCE
        files = self._files(row, run)
        for name, path in files.items():
            if path.is_file():
                continue
            logger.info("%s: %s patches", row, name)
            kind, size_px = settings.columns[name]
            attack = attack_from_settings(
                ATTACKS[kind],
                {
                    "size_px": size_px,
                    "steps": settings.steps if of_source else settings.own_steps,
                    "bit_widths": (run.bit_widths[0],),
                },
            )
            asked = PatchRunSettings(
                split=settings.split,
                images=settings.images if of_source else settings.own_images,
                made_from=settings.made_from if kind == "universal" else None,
                device=settings.device,
            )
            facts = self._facts(seed=asked.seed, config=attack.settings.as_record())
            make_patches(run, attack, self.data, asked, facts, path)
        return list(files.values())

    def _evaluated(self, run: RunFolder, patches: Sequence[Path]) -> None:
        if patches:  # records that are there already are not made again
            logger.info("%s: evaluation", run.path.name)
            asked = EvaluationSettings(latency_repeats=0, drift=False, split=self.settings.split)
            evaluate_runs([run], patches, self.data, asked, self._facts())


def _check_same(run: RunFolder, config: TrainingConfig) -> None:
    there = config_of_run(run.sidecar["config"], str(run.checkpoint)).published()
    wanted = config.published()
    if (start := run.sidecar.get("warm_start_sha256")) is not None:
        now = config.training.warm_start
        there |= {"warm_start_sha256": start}
        wanted |= {"warm_start_sha256": None if now is None else sha256_of(Path(now))}
    differing = [name for name in wanted if wanted[name] != there.get(name)]
    if differing:
        raise InputError(
            f"{run.path} was trained with another {', '.join(differing)} than requested now "
            f"({there.get(differing[0])} instead of {wanted[differing[0]]}); give another --out, "
            "or the settings that it was trained with"
        )
