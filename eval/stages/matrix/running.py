"""Do the jobs of a matrix: here, in several processes, on a Ray cluster, or a shard of them.

The records are the same in every case, but for their dates: a job depends on nothing but itself.
Workers on other machines need the run folders, the data and the matrix's folder under the same
paths (a shared file system), and qadtr with the extras ``eval`` and ``cluster``.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator

from deploy.core.errors import EngineUnavailable, QadtrError, UsageError
from deploy.core.installing import install_command
from deploy.core.records import read_records
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records
from eval.measure.evaluation_record import EvaluationRecord, read_evaluations
from eval.stages.matrix.jobs import RECORDS, Job, do_job, jobs_of
from eval.stages.matrix.plan import MatrixPlan
from training.progress import Progress
from training.validated import AtLeast1, validated

Runner = Callable[[Sequence[Job]], Iterator[str]]
"""Does jobs in any order and gives the title of each as it is done."""


@validated(UsageError)
class Running:
    """How to run a matrix.

    Attributes:
        stage: both, or one of them.
        shard: (i, n): this call does every n-th job, beginning with the i-th (from 1).
        workers: processes on this machine.
        ray: address of a Ray cluster ("auto", "host:port", or "local" for one of ``workers``
            processes started here); None uses none.

    Raises:
        UsageError: a value outside its range.
    """

    stage: Literal["all", "patches", "evaluate"] = "all"
    shard: tuple[AtLeast1, AtLeast1] = (1, 1)
    workers: AtLeast1 = 1
    ray: str | None = None

    @model_validator(mode="after")
    def _every_shard_finds_its_patches(self) -> Running:
        index, count = self.shard
        if index > count:
            raise ValueError(f"expected a shard such as 1/4 … 4/4, got {index}/{count}")
        if self.stage == "all" and count > 1:
            raise ValueError(
                "evaluation needs the patches of every shard; with --shard, run --stage patches "
                "in all shards first, then --stage evaluate"
            )
        return self


def run_matrix(
    plan: MatrixPlan,
    data: Path | None,
    out: Path,
    running: Running,
    provenance: Mapping[str, Any],
    cache: Path | None = None,
) -> list[EvaluationRecord]:
    """Do what is not done yet, and return all records in the folder.

    Args:
        out: the matrix's folder: patches/, records/.
        cache: folder of decoded images; None: they are decoded into memory.

    Raises:
        InputError, NothingToEvaluate, EngineUnavailable: from a job; jobs that were done stay.
    """
    jobs = jobs_of(plan, out, cache)
    (out / RECORDS).mkdir(parents=True, exist_ok=True)
    stages: list[tuple[str, Sequence[Job]]] = []
    if running.stage in ("all", "patches"):
        stages.append(("patches", jobs.patches))
    if running.stage in ("all", "evaluate"):
        stages.append(("evaluations", jobs.evaluations))
    index, count = running.shard
    with _runner(running, data, provenance) as do_all:
        for name, all_jobs in stages:
            own = all_jobs[index - 1 :: count]
            with Progress(f"matrix, {name}", len(own)) as bar:
                for title in do_all(own):
                    bar.advance(note=title)
    return read_evaluations(out / RECORDS)


@contextmanager
def _runner(running: Running, data: Path | None, provenance: Mapping[str, Any]) -> Iterator[Runner]:
    if running.ray is not None:
        with _ray(running.ray, running.workers) as ray:
            yield lambda jobs: _on_ray(ray, jobs, data, provenance)
    elif running.workers > 1:
        # Spawned, not forked: torch's thread pools do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(running.workers, mp_context=context) as pool:
            yield lambda jobs: _in_pool(pool, jobs, data, provenance)
    else:
        yield lambda jobs: _here(jobs, data, provenance)


def _here(jobs: Sequence[Job], data: Path | None, provenance: Mapping[str, Any]) -> Iterator[str]:
    before = torch.get_num_threads()
    try:
        for job in jobs:
            yield do_job(job, data, provenance)
    finally:
        torch.set_num_threads(before)


def _in_pool(
    pool: ProcessPoolExecutor,
    jobs: Sequence[Job],
    data: Path | None,
    provenance: Mapping[str, Any],
) -> Iterator[str]:
    try:
        futures = [pool.submit(do_job, job, data, provenance) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise QadtrError(_KILLED) from error
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


_KILLED = (
    "a worker was killed, probably by the kernel because memory ran out; finished work is kept, "
    "so run the same command again with fewer --workers"
)


@contextmanager
def _ray(address: str, workers: int) -> Iterator[Any]:
    if address == "local":
        # Read when Ray is imported: its processes then listen on 127.0.0.1 alone. Its name is of
        # the systems where that is the default.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray  # here: an extra, and slow to import
    except ImportError as error:
        raise EngineUnavailable(
            f"--ray needs the package ray ({error}); install it: {install_command('cluster')}"
        ) from error
    if address == "local":
        ray.init(
            num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
    else:
        try:
            _require_listening(address)
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (OSError, ValueError) as error:
            raise EngineUnavailable(
                f"there is no Ray cluster at {address!r}: {' '.join(str(error).split())}; start "
                "one (ray start --head), or use --ray local"
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Refuse at once what Ray itself would wait minutes for."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()


def _on_ray(
    ray: Any, jobs: Sequence[Job], data: Path | None, provenance: Mapping[str, Any]
) -> Iterator[str]:
    remote = ray.remote(num_cpus=1, max_retries=2)(do_job)
    waiting = [remote.remote(job, data, dict(provenance)) for job in jobs]
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        try:
            yield ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            for reference in waiting:
                ray.cancel(reference)
            # The error that the job raised, as it would be raised here.
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except ray.exceptions.RayError as error:
            raise QadtrError(_KILLED) from error


def checks_of_targets(plan: MatrixPlan) -> AttackChecks:
    """The attack checks among the records of the plan's targets.

    Raises:
        InputError: a record is damaged.
    """
    folders = dict.fromkeys(target.run / RECORDS for target in plan.targets)
    found = [record for folder in folders if folder.is_dir() for record in read_records(folder)]
    return attack_checks_from_records(found)
