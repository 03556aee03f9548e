"""The units of a transfer matrix, each of which any process on any machine may do.

A job reads run folders and writes into the matrix's folder, nothing else; what it writes depends
on the job alone, not on who does it, when, or beside whom. A job that is done already does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.core.patch_set import read_patch_set
from deploy.core.strict_json import json_bytes
from eval.attacks import attack_from_settings
from eval.measure.evaluation import evaluate_model
from eval.measure.patch_images import images_of_patches
from eval.measure.subject import subjects_of
from eval.stages.matrix.plan import MatrixPlan, PatchPlan
from eval.stages.patch import PatchRunSettings, make_patches
from training.run_folder import RunFolder

PATCHES, RECORDS = "patches", "records"
"""Folders inside the matrix's folder; `qadtr report` reads both."""

THREADS = 1
"""Of torch and the engine inside each job: sums, and so patches, are the same however many workers
there are."""


@dataclass(frozen=True, kw_only=True)
class PatchJob:
    """Make one patch set, the npz file ``out``; ``cache``: folder of decoded images."""

    plan: PatchPlan
    settings: PatchRunSettings
    out: Path
    cache: Path | None = None

    @property
    def title(self) -> str:
        """In a few words."""
        return self.out.stem

    def do(self, data: Path | None, provenance: Mapping[str, Any]) -> None:
        """Make it unless it is there; errors as ``eval.stages.patch.make_patches``."""
        if self.out.is_file() and self.out.with_suffix(".json").is_file():
            read_patch_set(self.out)
            return
        attack = attack_from_settings(self.plan.attack, self.plan.settings)
        run = RunFolder.open(self.plan.run, self.cache)
        make_patches(run, attack, data, self.settings, provenance, self.out)


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """Try the patch sets of the matrix, npz files, on one model: a target's run folder at one
    bit-width in one of ``deploy.engine.ENGINES``, or in ``torch``."""

    run: Path
    bits: int
    engine: str
    patches: tuple[Path, ...]
    records: Path
    cache: Path | None = None

    @property
    def title(self) -> str:
        """In a few words."""
        return f"{self.run.name}, {self.bits} bits, {self.engine}"

    def do(self, data: Path | None, provenance: Mapping[str, Any]) -> None:
        """Evaluate what is not recorded yet.

        Raises:
            InputError: a patch set of the matrix is not made yet, or a file is damaged.
            EngineUnavailable: the engine is not here.
        """
        missing = [path.name for path in self.patches if not path.is_file()]
        if missing:
            raise InputError(
                f"{len(missing)} patch sets of the matrix are missing, for example {missing[0]}; "
                "run --stage patches in every shard before --stage evaluate"
            )
        patch_sets = [read_patch_set(path) for path in self.patches]
        run = RunFolder.open(self.run, self.cache)
        images = images_of_patches([run], patch_sets, data, "test")
        (subject,) = subjects_of(run, self.engine, [self.bits])
        with subject.open(threads=THREADS) as opened:
            evaluate_model(
                opened,
                images,
                patch_sets,
                model=subject.facts(opened.name),
                records=self.records,
                provenance=provenance,
                progress=False,
            )


Job = PatchJob | EvaluationJob


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """All of a matrix: the evaluations need every patch set."""

    patches: tuple[PatchJob, ...]
    evaluations: tuple[EvaluationJob, ...]


def jobs_of(plan: MatrixPlan, out: Path, cache: Path | None = None) -> Jobs:
    """The jobs of a plan in a fixed order; opens the runs and checks what can be checked now.

    Raises:
        InputError: a run is missing or damaged, or lacks a bit-width; a model is not exported.
    """
    folders = [*(item.run for item in plan.patches), *(item.run for item in plan.targets)]
    runs = {path: RunFolder.open(path) for path in dict.fromkeys(folders)}
    patches: dict[Path, PatchJob] = {}
    for item in plan.patches:
        run = runs[item.run]
        run.chosen_bit_widths(item.settings["bit_widths"])
        attack = attack_from_settings(item.attack, item.settings)
        about = [attack.name, attack.settings.as_record(), asdict(plan.settings)]
        digest = sha256_of_bytes(json_bytes([run.checkpoint_sha256, *about]))
        path = out / PATCHES / f"{attack.name}-{digest[:12]}.npz"
        patches[path] = PatchJob(plan=item, settings=plan.settings, out=path, cache=cache)
    evaluations: dict[tuple[Path, int, str], EvaluationJob] = {}
    for target in plan.targets:
        run = runs[target.run]
        for engine in target.engine:
            for subject in subjects_of(run, engine, target.bits):
                evaluations[(target.run, subject.bit_width, engine)] = EvaluationJob(
                    run=target.run,
                    bits=subject.bit_width,
                    engine=engine,
                    patches=tuple(patches),
                    records=out / RECORDS,
                    cache=cache,
                )
    return Jobs(patches=tuple(patches.values()), evaluations=tuple(evaluations.values()))


def do_job(job: Job, data: Path | None, provenance: Mapping[str, Any]) -> str:
    """Do a job in this process and return its title; what a worker calls."""
    torch.set_num_threads(THREADS)
    job.do(data, provenance)
    return job.title
