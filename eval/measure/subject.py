"""The subject of a measurement: one model at one bit-width in one engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.core.engine_protocol import Engine
from deploy.core.errors import InputError
from deploy.core.files import sha256_of
from deploy.core.records import records_so_far
from deploy.engine import open_engine, require_engine, version_of
from eval.attacks.engine_network import EngineNetwork
from eval.attacks.predictions import predict
from eval.measure.evaluation_record import CertificateSummary, ModelFacts, RunFacts
from eval.measure.proofs import CERTIFICATE_KIND, proofs_from_records
from training.prediction import SwitchableNetwork
from training.run_folder import RunFolder

TORCH = "torch"
"""Name of the fake-quantized network itself in the place of an engine."""


class Predictor(Protocol):
    """Anything that classifies uint8 images: an engine, or :class:`NetworkPredictor`."""

    @property
    def name(self) -> str:
        """The name of the engine, such as "onnxruntime-cpu"."""
        ...

    def predict(self, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.int64]:
        """Classes, int64 N, of uint8 images N×3×H×W."""
        ...


@dataclass(frozen=True, kw_only=True)
class NetworkPredictor:
    """A torch network at one bit-width in place of an engine."""

    network: SwitchableNetwork
    bit_width: int
    name: str = TORCH

    def predict(self, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.int64]:
        """Classes, int64 N, of uint8 images N×3×H×W."""
        return predict(self.network, images, self.bit_width, batch_size=batch_size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model that is not open yet; code that measures it need not know its origin.

    Attributes:
        name: as people see it: the run's folder.
        network, defense, bit_width, checkpoint_sha256: as in :class:`ModelFacts`.
        engine: a name of ``deploy.engine.ENGINES``, or :data:`TORCH`.
        file: for the engine; None for the network in torch.
        records: the folder where the file's certificate is, if it has one.
        load_network: gives the network, for :data:`TORCH`.
        run: the training run that it is from, where there is one.
    """

    name: str
    network: str
    defense: str
    bit_width: int
    checkpoint_sha256: str | None
    engine: str
    file: Path | None
    records: Path
    load_network: Callable[[], SwitchableNetwork]
    run: RunFacts | None = None

    @property
    def model_file(self) -> Path:
        """The file; InputError for a network in torch, which has no file."""
        if self.file is None:
            name = f"{self.name} at {self.bit_width} bits in torch"
            raise InputError(f"{name} is not an exported model")
        return self.file

    @contextmanager
    def open(
        self, *, threads: int = 1, network: SwitchableNetwork | None = None
    ) -> Iterator[Predictor]:
        """The engine, or the network in its place, until the context ends.

        Args:
            network: the result of ``load_network``, where the caller has it already.

        Raises:
            EngineUnavailable: the engine is not installed.
            InputError: the file is damaged or not for the engine.
        """
        if self.engine == TORCH:
            network = self.load_network() if network is None else network
            yield NetworkPredictor(network=network, bit_width=self.bit_width)
            return
        with self.open_engine(threads=threads) as engine:
            yield engine

    def open_engine(self, *, threads: int = 1) -> Engine:
        """The engine, for callers that need more than classes; errors as :meth:`open`."""
        return open_engine(self.engine, self.model_file, threads=threads)

    @contextmanager
    def as_network(self, *, threads: int = 1) -> Iterator[SwitchableNetwork]:
        """The model as the source of an attack; an engine gives no gradients."""
        with self.open_engine(threads=threads) as engine:
            yield EngineNetwork(engine, self.bit_width, sha256_of(self.model_file))

    def facts(self, engine: str) -> ModelFacts:
        """The facts of the model for a record.

        Raises:
            InputError: the file or a certificate cannot be read.
        """
        digest = None if self.file is None else sha256_of(self.file)
        facts = ModelFacts(
            network=self.network,
            defense=self.defense,
            bit_width=self.bit_width,
            checkpoint_sha256=self.checkpoint_sha256,
            file=None if self.file is None else self.file.name,
            file_sha256=digest,
            file_size_bytes=None if self.file is None else self.file.stat().st_size,
            engine=engine,
            engine_version=version_of(engine),
            certificate=None if digest is None else self._certificate(digest),
        )
        return facts if self.run is None else {**facts, "run": self.run}

    def _certificate(self, model_sha256: str) -> CertificateSummary | None:
        """The verdict and counts of the newest certificate of a model file, if there is one."""
        found = proofs_from_records(records_so_far(self.records, CERTIFICATE_KIND))
        newest = found.certificates.get(model_sha256)
        return (
            None if newest is None else CertificateSummary(ok=newest["ok"], counts=newest["counts"])
        )


def run_facts(run: RunFolder) -> RunFacts:
    """The facts of the training run itself for records."""
    name = run.path.resolve().name
    assert run.seed is not None
    return RunFacts(name=name, seed=run.seed, config=dict(run.sidecar["config"]))


def subjects_of(
    run: RunFolder, engine: str, bit_widths: Sequence[int] | None = None
) -> tuple[Subject, ...]:
    """A run's models in an engine.

    Args:
        engine: a name of ``deploy.engine.ENGINES``, or :data:`TORCH`.
        bit_widths: None takes all that are exported for the engine, or all of the network.

    Raises:
        EngineUnavailable: there is no engine of that name.
        InputError: a bit-width is not exported (the message lists the exported ones and the command
            that exports it), or the network lacks it.
    """
    if engine == TORCH:
        widths = run.chosen_bit_widths(bit_widths)
    else:
        require_engine(engine)
        widths = run.exported(bit_widths, engine)
    return tuple(
        Subject(
            name=run.path.name,
            network=run.network_name,
            defense=run.defense,
            bit_width=bits,
            checkpoint_sha256=run.checkpoint_sha256,
            engine=engine,
            file=None if engine == TORCH else run.model_file(bits, engine),
            records=run.records,
            load_network=run.load_network,
            run=None if run.adopted else run_facts(run),
        )
        for bits in widths
    )
