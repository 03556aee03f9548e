"""One run's network, images and settings, and the search against a victim built from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.core.errors import NothingToEvaluate
from deploy.core.files import sha256_of, sha256_of_bytes
from deploy.core.patch_origin import PatchOrigin
from deploy.core.patch_set import PatchSet, read_patch_set, write_patch_set
from deploy.core.records import write_record
from deploy.core.strict_json import json_bytes
from eval.attacks.adaptive.adaptive_settings import AdaptiveSettings
from eval.attacks.adaptive.search import AtDraws, Attacked, Searched, raise_draws, search
from eval.attacks.adaptive.victim import Victim
from eval.attacks.judging import generator_for
from eval.attacks.placement import positions_for
from eval.measure.adaptive.adaptive_record import KIND, AdaptiveRecord, AttackedModel, AttackedPatch
from eval.measure.evaluation import evaluate_model
from eval.measure.evaluation_record import EvaluationRecord
from eval.measure.patch_measures import patch_set_digest
from eval.measure.subject import TORCH, run_facts, subjects_of
from training.data import Images, ImageSet
from training.data.subset import chosen_indices
from training.quantize import Network
from training.run_folder import RunFolder
from training.validated import AtLeast0, AtLeast1, BitWidths, validated

ATTACK = "adaptive"
"""Name of the attack in patch files and evaluation records."""

Transferred = Mapping[str, NDArray[np.uint8]]
"""Patches made elsewhere for the same images, uint8 N×3×h×w, by name."""


@validated()
class AdaptiveRunSettings:
    """The images and bit-widths of an adaptive evaluation.

    Attributes:
        bit_widths: None takes all that the network has.
        split: "test" for final figures, "holdout" to choose settings.
        images: their number; None takes all.
        seed: of the attack.
        engine: a name of ``deploy.engine.ENGINES``, for the exported models.
        random_precision: also attack the network with a bit-width drawn for each answer, from the
            integer ones of ``bit_widths``.
    """

    bit_widths: BitWidths | None = None
    split: str = "test"
    images: AtLeast1 | None = 500
    seed: AtLeast0 = 0
    engine: str = "onnxruntime"
    random_precision: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The result of the search against one victim.

    Attributes:
        clean: the victim's classes without a patch, int64 N: the draw that the ASR is based on.
        searched: a patch for each image; black where the victim was right at no bit-width.
        draws: the ASR at each K.
    """

    key: str
    clean: NDArray[np.int64]
    searched: Searched
    draws: list[AtDraws]
    draws_enough: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """The common data of all searches of one call.

    Attributes:
        indices: of the attacked images within their split, int64 N.
        positions: the place of each patch, int64 N×2.
        known: the existing records, by key; new ones are added.
    """

    run: RunFolder
    network: Network
    images: ImageSet
    indices: NDArray[np.int64]
    positions: NDArray[np.int64]
    attack: AdaptiveSettings
    settings: AdaptiveRunSettings
    provenance: Mapping[str, Any]
    known: dict[str, AdaptiveRecord]

    @property
    def chosen(self) -> NDArray[np.uint8]:
        """The attacked images, uint8 N×3×H×W."""
        return self.images.images[self.indices]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Their classes, int64 N."""
        return self.images.labels[self.indices]

    def key(self, name: str, transferred: Transferred) -> str:
        """Digest of everything that the search against the victim of that name depends on."""
        made = sorted((one, sha256_of_bytes(patch.tobytes())) for one, patch in transferred.items())
        about = [
            *(self.run.checkpoint_sha256, name, self.attack.as_record(), asdict(self.settings)),
            *(self.images.digest, self.indices.tolist(), made),
        ]
        return sha256_of_bytes(json_bytes(about))

    def key_with_file(self, key: str, bits: int) -> str:
        """Digest of a search and of the exported model that its patches are tried on, so that a
        different file gives a separate record of the same search."""
        engine = self._engine(bits)
        file = None if engine == TORCH else sha256_of(self.run.model_file(bits, engine))
        return sha256_of_bytes(json_bytes([key, file]))

    def search(self, victim: Victim, name: str, transferred: Transferred) -> Found:
        """Search for patches for the images that the victim classifies correctly, with K raised
        where it is random.

        It attacks all images that are right in the draw of ``Found.clean``, which the ASR is based
        on, and those that another of its bit-widths has right: the patches are tried at each.

        Raises:
            NothingToEvaluate: it classifies no image correctly.
        """
        draw = generator_for(self.settings.seed, f"clean {name}")
        clean = victim.predict(self.chosen, draw)
        right = clean == self.labels
        if not right.any():
            raise NothingToEvaluate(
                f"{self.run.path} at {name} has none of {len(self.indices)} images right without a "
                "patch: there is nothing to attack"
            )
        at_each = [replace(victim, bit_widths=(bits,)) for bits in victim.bit_widths]
        sometimes = [one.predict(self.chosen, draw) == self.labels for one in at_each]
        rows = np.flatnonzero(np.any([right, *sometimes], axis=0))
        attacked = Attacked(
            images=self.chosen[rows], labels=self.labels[rows], positions=self.positions[rows]
        )
        key = self.key(name, transferred)
        folder = self.run.patches
        title = f"adaptive, {self.run.network_name} {name}"

        def run(draws: int) -> Searched:
            return search(
                victim,
                attacked,
                self.attack,
                seed=self.settings.seed,
                draws=draws,
                transferred={made_on: patch[rows] for made_on, patch in transferred.items()},
                resume_from=folder / f".adaptive-{key[:8]}-{draws}.search.npz",
                title=title + (f", {draws} draws" if victim.random else ""),
            )

        folder.mkdir(parents=True, exist_ok=True)
        fresh = generator_for(self.settings.seed, f"fresh {name}")
        searched, draws, enough = raise_draws(
            run, victim, attacked, self.attack, fresh, counted=right[rows]
        )
        patch = np.zeros((len(self.indices), *searched.patch.shape[1:]), np.uint8)
        won = np.zeros(len(self.indices), np.bool_)
        patch[rows], won[rows] = searched.patch, searched.won
        whole = Searched(patch=patch, won=won, stages=searched.stages)
        return Found(key=key, clean=clean, searched=whole, draws=draws, draws_enough=enough)

    def write_patches(self, patch: NDArray[np.uint8], widths: tuple[int, ...]) -> PatchSet:
        """Write the patches found at those bit-widths, uint8 N×3×h×w, one for each attacked image,
        to a file of the run; returns the file and the same patches in memory."""
        attack, run = self.attack, self.run
        patch_set = PatchSet(
            name=self._name(widths),
            kind="per-image",
            patch=patch,
            mask=np.ones((attack.size_px, attack.size_px), np.bool_),
            positions=self.positions.astype(np.int32),
            image_indices=self.indices,
            origin=PatchOrigin(
                attack=ATTACK,
                settings={**attack.as_record(), "shape": "square"},
                seed=self.settings.seed,
                made_on=self.settings.split,
                source={**run.about(), "bit_widths": list(widths)},
                tried_on=self.images.about,
                run=self.provenance,
            ),
        )
        write_patch_set(self._file(widths, patch_set_digest(patch_set)), patch_set)
        return patch_set

    def written_patches(self, record: AdaptiveRecord) -> PatchSet | None:
        """The file of an earlier record's patches; None where it does not exist (any more)."""
        widths = tuple(record["model"]["bit_widths"])
        (digest,) = record["patch"]["sha256"]
        path = self._file(widths, digest)
        return read_patch_set(path) if path.is_file() else None

    def _name(self, widths: tuple[int, ...]) -> str:
        bits = "-".join(map(str, widths))
        attack = self.attack
        return f"{ATTACK}-per-image-{attack.size_px}px-{attack.placement}-from-{bits}bit"

    def _file(self, widths: tuple[int, ...], digest: str) -> Path:
        return self.run.patches / f"{self._name(widths)}-{digest[:8]}.npz"

    def evaluate(self, patch_set: PatchSet, bits: int) -> EvaluationRecord:
        """Evaluate the patches on the exported model, where there is one, else on the network."""
        (subject,) = subjects_of(self.run, self._engine(bits), [bits])
        with subject.open(network=self.network) as opened:
            (record,) = evaluate_model(
                opened,
                self.images,
                [patch_set],
                model=subject.facts(opened.name),
                records=self.run.records,
                provenance=self.provenance,
            )
        return record

    def _engine(self, bits: int) -> str:
        """The place where patches are tried: the engine, if the model is exported, else torch."""
        engine = self.settings.engine
        return engine if bits in self.run.bit_widths_with_file(engine) else TORCH

    def keep(self, record: AdaptiveRecord) -> AdaptiveRecord:
        """Write the record, and add it to the known ones."""
        write_record(self.run.records, KIND, record, self.provenance)
        self.known[record["key"]] = record
        return record

    def model(self, widths: tuple[int, ...]) -> AttackedModel:
        """The record's facts of the network at those bit-widths."""
        return AttackedModel(
            network=self.run.network_name,
            defense=self.run.defense,
            checkpoint_sha256=self.run.checkpoint_sha256,
            bit_widths=list(widths),
            run=run_facts(self.run),
        )

    def patch(self, digests: Sequence[str]) -> AttackedPatch:
        """The record's facts of the patch sets with those digests."""
        size = self.attack.size_px
        height, width = self.images.images.shape[2:]
        return AttackedPatch(
            kind="per-image",
            size_px=size,
            area_px=size * size,
            area_share=size * size / (height * width),
            placement=self.attack.placement,
            sha256=list(digests),
        )


def begin(
    run: RunFolder,
    data: Images | None,
    attack: AdaptiveSettings,
    settings: AdaptiveRunSettings,
    provenance: Mapping[str, Any],
    known: dict[str, AdaptiveRecord],
) -> Task:
    """Read images and network and choose the images and places.

    Raises:
        InputError: more images than there are, a patch larger than the image.
    """
    images = run.images(data, settings.split)
    indices = chosen_indices(len(images), settings.images)
    size = (attack.size_px, attack.size_px)
    draw = generator_for(settings.seed, "places")
    positions = positions_for(attack.placement, len(indices), images.images.shape[2:], size, draw)
    network = run.load_network()
    cast(Any, network).to(memory_format=torch.channels_last)
    network.requires_grad_(False)
    return Task(
        run=run,
        network=network,
        images=images,
        indices=indices,
        positions=positions.numpy(),
        attack=attack,
        settings=settings,
        provenance=provenance,
        known=known,
    )
