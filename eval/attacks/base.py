"""The common parts of all patch attacks: checks, starts, clipping, rounding, scoring, resuming."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deploy.core.errors import InputError
from deploy.core.images import check_images
from deploy.core.patch_origin import PatchOrigin, PatchSource
from deploy.core.patch_set import PatchSet
from deploy.core.strict_json import json_bytes
from eval.attacks.found import Found
from eval.attacks.judging import Judge, generator_for, success_in_words
from eval.attacks.predictions import digest_state, evaluation_mode, logits
from eval.attacks.problem import Crafted, Problem
from eval.attacks.settings import AttackSettings
from training.patching import circle_mask, square_mask
from training.prediction import SwitchableNetwork, device_of
from training.progress import Progress

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=AttackSettings)


class PatchAttack(ABC, Generic[S]):
    """A patch attack with its settings. A subclass supplies ``optimize`` (and names itself).

    Only the base class decides the result: it draws the starts, clips and rounds the patches that
    ``optimize`` found to bytes, pastes them as a device would, judges success on the network, and
    keeps the best restart. So no attack can score itself, and the scored patches are the ones that
    are written.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[AttackSettings]]
    needs_gradients: ClassVar[bool] = True
    """False: the attack only asks for logits or classes, so it also runs against an engine."""

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def kind(self) -> Literal["per-image", "universal"]:
        """One patch for each image, or one for all."""

    @abstractmethod
    def optimize(self, problem: Problem, stepped: Callable[[], None]) -> Crafted:
        """Find a patch (or one per image) for the problem; call ``stepped`` after each step."""

    def run(
        self,
        network: SwitchableNetwork,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        generator: torch.Generator,
        *,
        image_indices: NDArray[np.int64] | None = None,
        tried_on: NDArray[np.int64] | None = None,
        source: PatchSource | None = None,
        made_on: str | None = None,
        name: str | None = None,
        resume_from: Path | None = None,
        progress: bool = True,
    ) -> PatchSet:
        """Make the patch set.

        Args:
            network: the source; its mode, bit-width and gradients are restored afterwards.
            images: uint8 N×3×H×W. Per-image: the images to attack. Universal: the images to
                optimize on, which should differ from those that the patch is tried on.
            labels: int64 N, the true classes.
            generator: the only randomness, on the CPU; the same seed gives the same bytes.
            image_indices: per-image only: indices of ``images`` in their split (default 0…N−1).
            tried_on: universal only: indices of the images that the patch is to be pasted on
                (default 0…N−1); their places are drawn after the optimization.
            source: facts of the network; the bit-widths are added here.
            made_on: name of the split that ``images`` are from.
            name: of the patch set; default such as ``lavan-per-image-8px-centre-from-32bit``.
            resume_from: an npz file that stores the progress after each restart of each batch, and
                in attacks by gradients also twice a minute; an interrupted run that is restarted
                with it gives the same bytes. The file is not deleted; delete it when the patch set
                is written.

        Raises:
            InputError: images and labels that do not belong together, a target that is not a class,
                a bit-width that the network lacks, a patch larger than the image, a white-box
                attack on a network without gradients, or a ``resume_from`` that belongs to another
                run.
        """
        labels = self._checked(images, labels, image_indices, tried_on)
        if self.needs_gradients and not getattr(network, "differentiable", True):
            raise InputError(
                f"{self.name} follows gradients, and an engine has none; make the patch on the "
                "network, or use an attack that only asks for logits or classes (sparse-rs)."
            )
        base_seed = int(torch.randint(2**62, (), generator=generator))
        shape = circle_mask if self.settings.shape == "circle" else square_mask
        mask = shape(self.settings.size_px).numpy()
        judge = Judge(network, self.settings, mask, generator_for(base_seed, "judge"))
        universal = self.kind == "universal"
        with evaluation_mode(network):
            self._check_classes(network, images)
            found = Found.begin(
                resume_from,
                identity=self._identity(network, images, labels, base_seed),
                patches=(1 if universal else len(images), images.shape[1]),
                images=0 if universal else len(images),
                size_px=self.settings.size_px,
            )
            self._search(judge, images, labels, base_seed, found, progress)
            positions = None if universal else found.positions
            on_source = judge.success(images, labels, found.patch, positions)
        indices = tried_on if universal else image_indices
        if indices is None:
            indices = np.arange(len(images))
        if positions is None:
            draw = generator_for(base_seed, "tried on")
            places = self.settings.positions(len(indices), images.shape[2:], draw)
            positions = places.numpy().astype(np.int32)
        name = name or self._default_name()
        logger.info("%s: %s", name, success_in_words(on_source))
        return PatchSet(
            name=name,
            kind=self.kind,
            patch=found.patch,
            mask=mask,
            positions=positions,
            image_indices=indices.astype(np.int64),
            target=self.settings.target,
            origin=PatchOrigin(
                attack=self.name,
                settings=self.settings.as_record(),
                seed=generator.initial_seed(),
                made_on=made_on,
                source={**(source or {}), "bit_widths": list(self.settings.bit_widths)},
                area={"px": int(mask.sum()), "share": float(mask.sum()) / images[0, 0].size},
                more={"on_source": on_source, "queries_per_image": self.queries_per_image()},
            ),
        )

    def queries_per_image(self) -> int | None:
        """Queries per image of a gradient-free per-image search; None for white-box attacks."""
        return None

    # ------------------------------------------------------------------ the search

    def _search(
        self,
        judge: Judge,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        base_seed: int,
        found: Found,
        progress: bool,
    ) -> None:
        """Every restart of every batch; the best of each goes into ``found``."""
        universal = self.kind == "universal"
        size = len(images) if universal else self.settings.batch_size
        units = [
            (first, restart)
            for first in range(0, len(images), size)
            for restart in range(self.settings.restarts)
        ]
        title = f"{self._default_name()} ({len(images)} images)"
        with Progress(title, len(units) * self.settings.steps, shown=progress) as bar:
            bar.advance(found.units_done * self.settings.steps)
            for first, restart in units[found.units_done :]:
                chosen = slice(first, first + size)
                # A separate generator for each unit: a resumed run draws the same as a whole one.
                draw = generator_for(base_seed, f"{first} {restart}")
                problem = self._problem(judge, images[chosen], labels[chosen], draw, found)
                crafted = self.optimize(problem, bar.advance)
                patch = _as_bytes(crafted.patch, judge.mask)
                places = problem.positions if crafted.positions is None else crafted.positions
                positions = places.cpu().numpy().astype(np.int32)
                if universal:
                    wins, margins = judge.universal(images, labels, patch)
                    found.keep_better(slice(0, 1), patch, None, wins, margins)
                else:
                    wins, margins = judge.per_image(
                        images[chosen], labels[chosen], patch, positions
                    )
                    found.keep_better(chosen, patch, positions, wins, margins)
                found.unit_done()

    def _problem(
        self,
        judge: Judge,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        draw: torch.Generator,
        found: Found,
    ) -> Problem:
        device = device_of(judge.network)
        universal = self.kind == "universal"
        shape = (1 if universal else len(images), images.shape[1], *judge.mask.shape)
        if self.settings.start == "random":
            start = torch.rand(shape, generator=draw) * 255.0
        else:
            start = torch.full(shape, 128.0)
        positions = self.settings.positions(len(images), images.shape[2:], draw)
        return Problem(
            network=judge.network,
            images=torch.from_numpy(images).to(device),
            labels=torch.from_numpy(labels).to(device),
            mask=torch.from_numpy(judge.mask).to(device),
            start=start.to(device),
            positions=positions.to(device),
            universal=universal,
            settings=self.settings,
            generator=draw,
            found=found,
        )

    # ------------------------------------------------------------------ small parts

    def _default_name(self) -> str:
        settings = self.settings
        shape = "" if settings.shape == "square" else f"-{settings.shape}"
        target = "" if settings.target is None else f"-target-{settings.target}"
        bits = "-".join(f"{bits}" for bits in settings.bit_widths)
        size = f"{settings.size_px}px{shape}-{settings.placement}"
        return f"{self.name}-{self.kind}-{size}{target}-from-{bits}bit"

    def _checked(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        image_indices: NDArray[np.int64] | None,
        tried_on: NDArray[np.int64] | None,
    ) -> NDArray[np.int64]:
        check_images(images)
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"Expected one integer label for each of {len(images)} images, got "
                f"{labels.dtype} {labels.shape}."
            )
        if self.kind == "per-image" and tried_on is not None:
            raise InputError(
                "A per-image attack tries each patch on its own image: give image_indices, not "
                "tried_on."
            )
        if self.kind == "universal" and image_indices is not None:
            raise InputError(
                "A universal attack is made on one set of images and tried on another: give "
                "tried_on, the indices of those, not image_indices."
            )
        return labels.astype(np.int64)

    def _check_classes(self, network: SwitchableNetwork, images: NDArray[np.uint8]) -> None:
        for bits in self.settings.bit_widths:
            classes = logits(network, images[:1], bits).shape[1]
            if self.settings.target is not None and self.settings.target >= classes:
                raise InputError(
                    f"The target {self.settings.target} is not a class; the network has {classes}, "
                    f"0…{classes - 1}."
                )

    def _identity(
        self,
        network: SwitchableNetwork,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        base_seed: int,
    ) -> str:
        """Digest of everything that the optimization depends on."""
        digest = hashlib.sha256(json_bytes([self.name, self.settings.as_record(), base_seed]))
        for array in (images, labels):
            digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        digest_state(digest, network)
        return digest.hexdigest()


def _as_bytes(patch: Tensor, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Clip to 0…255, round half to even, and set the pixels outside of the mask to zero."""
    patch = patch.detach().cpu()
    if not bool(torch.isfinite(patch).all()):
        raise InputError("The attack found a patch with NaN or infinite values; check the network.")
    shown = patch.clamp(0.0, 255.0).round() * torch.from_numpy(mask)
    result: NDArray[np.uint8] = shown.to(torch.uint8).numpy()
    return result
