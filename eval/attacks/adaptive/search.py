"""The cascade of ascents against one victim, kept in a file so that it can be resumed.

Each stage attacks only the images that no earlier stage has won. The best patch of each image is
kept, so the result is the worst case over variants, losses, starts and restarts. Against a network
with randomness, K, the number of draws per step, is raised until the result no longer changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import TypedDict

from deploy.core.npz import write_npz
from deploy.core.pasting import paste
from deploy.core.share import share
from deploy.core.strict_json import json_bytes
from eval.attacks.adaptive.adaptive_settings import AdaptiveSettings, Stage, cascade
from eval.attacks.adaptive.ascent import Ascended, AscentSettings, ascend, likeliest_wrong
from eval.attacks.adaptive.straight_through import variants_of
from eval.attacks.adaptive.victim import Victim
from eval.attacks.found import as_array, read_resumed
from eval.attacks.judging import generator_for
from eval.attacks.losses import attack_loss
from eval.attacks.predictions import digest_state, logits
from training.patching import square_mask
from training.progress import Progress
from training.record_types import Share
from training.validated import AtLeast0, AtLeast1


class StageResult(TypedDict):
    """What one stage added."""

    stage: str
    attacked: AtLeast0
    """Images that had resisted until then."""
    won: AtLeast0


class AtDraws(TypedDict):
    """The attack with K draws per step: ASR over fresh draws, ``asr["n"]`` image-draws."""

    draws: AtLeast1
    asr: Share


@dataclass(frozen=True, kw_only=True, eq=False)
class Attacked:
    """The images of one attack: uint8 N×3×H×W, int64 N, int64 N×2.

    The victim classifies each correctly without a patch at one or more of its bit-widths.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]

    def of(self, rows: NDArray[np.int64]) -> Attacked:
        """Some of them."""
        return Attacked(
            images=self.images[rows], labels=self.labels[rows], positions=self.positions[rows]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Searched:
    """Best patch of each image, uint8 N×3×h×w, whether it won in the search, bool N, and what each
    stage added."""

    patch: NDArray[np.uint8]
    won: NDArray[np.bool_]
    stages: list[StageResult]


def search(
    victim: Victim,
    attacked: Attacked,
    settings: AdaptiveSettings,
    *,
    seed: int,
    draws: int = 1,
    transferred: Mapping[str, NDArray[np.uint8]] | None = None,
    resume_from: Path | None = None,
    title: str = "adaptive",
    progress: bool = True,
) -> Searched:
    """Run the cascade.

    Args:
        victim: the network; with several bit-widths or noise, give ``draws``, K.
        seed: of the starts and of the victim's draws.
        transferred: patches made elsewhere for the same images, uint8 N×3×h×w, by name: they are
            first tried unchanged, and a "transferred" stage starts from the best so far.
        resume_from: an npz file written after each stage.

    Raises:
        InputError: ``resume_from`` belongs to another search.
    """
    bits = victim.bit_widths[0]
    stages = cascade(variants_of(victim.network, bits)) * settings.restarts
    given = dict(transferred or {})
    identity = _identity(victim, attacked, settings, stages, given, seed, draws)
    count, channels = attacked.images.shape[:2]
    shape = (count, channels, settings.size_px, settings.size_px)
    state = _State(resume_from, identity, shape, victim.random)
    if state.stages_done == 0:
        for name, patch in given.items():
            rows = state.resisting()
            if len(rows):
                draw = generator_for(seed, f"{name} as it is")
                found = _as_it_is(victim, attacked.of(rows), patch[rows], draws, draw)
                state.keep_better(rows, found, f"{name} as it is")
    with Progress(title, len(stages) * len(attacked.images), shown=progress) as bar:
        bar.advance(state.stages_done * len(attacked.images))
        for number, stage in enumerate(stages):
            if number < state.stages_done:
                continue
            rows = state.resisting()
            some = attacked.of(rows)
            draw = generator_for(seed, f"{bits} {draws} {number}")
            toward = _toward(victim, some, stage, draw)
            if len(rows) and (stage.toward is None or toward is not None):
                found = ascend(
                    victim,
                    torch.from_numpy(some.images),
                    torch.from_numpy(some.labels),
                    square_mask(settings.size_px),
                    torch.from_numpy(some.positions),
                    _start(stage, state.best, rows, draw),
                    AscentSettings(
                        variant=stage.variant,
                        loss=stage.loss,
                        steps=settings.steps,
                        step_size=settings.step_size,
                        momentum=settings.momentum,
                        draws=draws,
                        confidence=settings.confidence,
                        batch_size=settings.batch_size,
                    ),
                    draw,
                    bar.advance,
                    toward=toward,
                )
                state.keep_better(rows, found, stage.name)
            else:
                rows = rows[:0]
            won = state.won().mean()
            bar.advance(len(attacked.images) - len(rows), f"{stage.name}: {won:.1%} won")
            state.stage_done()
    return Searched(patch=state.best.patch.numpy(), won=state.won(), stages=state.results)


def raise_draws(
    run: Callable[[int], Searched],
    victim: Victim,
    attacked: Attacked,
    settings: AdaptiveSettings,
    generator: torch.Generator,
    *,
    counted: NDArray[np.bool_] | None = None,
) -> tuple[Searched, list[AtDraws], bool]:
    """Attack with K = 1, 2, 4, … until the ASR over fresh draws moves by less than the settings'
    points, or K is the largest.

    A network without randomness is attacked with K = 1.

    Args:
        run: the attack with K draws per step.
        generator: of the fresh draws; not the generator of the attack.
        counted: bool N, which of the attacked images the ASR is over; None takes all.

    Returns:
        The strongest search, the ASR at each K, and whether the ASR had stopped changing.
    """

    def scored(draws: int, found: Searched) -> AtDraws:
        won = fresh_success(victim, attacked, found.patch, settings.scoring_draws, generator)
        won = won if counted is None else won[:, counted]
        return AtDraws(draws=draws, asr=share(int(won.sum()), won.size))

    draws, curve = 1, list[AtDraws]()
    best = run(draws)
    if not victim.random:
        return best, curve, True
    curve.append(scored(draws, best))
    while draws < settings.most_draws:
        draws *= 2
        found = run(draws)
        before = [point["asr"]["value"] for point in curve]
        curve.append(scored(draws, found))
        value = curve[-1]["asr"]["value"]
        if value >= max(before):
            best = found
        if abs(value - before[-1]) * 100.0 < settings.asr_points:
            return best, curve, True
    return best, curve, False


def fresh_success(
    victim: Victim,
    attacked: Attacked,
    patch: NDArray[np.uint8],
    draws: int,
    generator: torch.Generator,
) -> NDArray[np.bool_]:
    """Whether each image's patch wins, bool draws×N, on draws that the attack has not seen."""
    mask = np.ones(patch.shape[2:], np.bool_)
    pasted = paste(attacked.images, patch, mask, attacked.positions.astype(np.int32))
    return np.stack([victim.predict(pasted, generator) != attacked.labels for _ in range(draws)])


def _toward(victim: Victim, some: Attacked, stage: Stage, draw: torch.Generator) -> Tensor | None:
    """The class that each image is driven to, int64; None: none, or there are too few classes."""
    if stage.toward is None or not len(some.images):
        return None
    images, labels = torch.from_numpy(some.images), torch.from_numpy(some.labels)
    wrong = likeliest_wrong(victim, images, labels, draw)
    return wrong[:, stage.toward - 1] if stage.toward <= wrong.shape[1] else None


def _start(stage: Stage, best: Ascended, rows: NDArray[np.int64], draw: torch.Generator) -> Tensor:
    shape = (len(rows), *best.patch.shape[1:])
    if stage.start == "grey":
        return torch.full(shape, 128, dtype=torch.uint8)
    random = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    if stage.start == "random":
        return random
    known = best.margin[rows].isfinite()[:, None, None, None]
    return torch.where(known, best.patch[rows], random)


def _as_it_is(
    victim: Victim,
    attacked: Attacked,
    patch: NDArray[np.uint8],
    draws: int,
    draw: torch.Generator,
) -> Ascended:
    """The result of patches made elsewhere, uint8 N×3×h×w, on the images they were made for."""
    mask = np.ones(patch.shape[2:], np.bool_)
    pasted = paste(attacked.images, patch, mask, attacked.positions.astype(np.int32))
    labels = torch.from_numpy(attacked.labels)
    margins = []
    for _ in range(draws):
        with victim.drawn(draw) as bits:
            found = torch.from_numpy(logits(victim.network, pasted, bits))
        margins.append(attack_loss("margin", found, labels, None))
    stacked = torch.stack(margins)
    return Ascended(
        patch=torch.from_numpy(patch),
        margin=stacked.mean(dim=0),
        wins=(stacked > 0).float().mean(dim=0),
    )


class _State:
    """Best patches so far and the stages that are done, in a file where there is one."""

    def __init__(
        self,
        path: Path | None,
        identity: str,
        shape: tuple[int, int, int, int],
        random: bool,
    ) -> None:
        count = shape[0]
        nothing: dict[str, NDArray[Any]] = {
            "patch": np.zeros(shape, np.uint8),
            "margin": np.full(count, -np.inf, np.float32),
            "wins": np.zeros(count, np.float32),
            "stages_done": np.array(0),
            "names": as_array(""),
            "counts": np.zeros((0, 2), np.int64),
        }
        arrays = read_resumed(path, identity, nothing) or nothing
        self._path, self._identity, self._random = path, identity, random
        self.best = Ascended(
            patch=torch.tensor(arrays["patch"]),
            margin=torch.tensor(arrays["margin"]),
            wins=torch.tensor(arrays["wins"]),
        )
        self.stages_done = int(arrays["stages_done"])
        self._names = bytes(arrays["names"]).decode().split("\n") if arrays["names"].size else []
        self._counts: list[list[int]] = arrays["counts"].tolist()

    @property
    def results(self) -> list[StageResult]:
        return [
            StageResult(stage=name, attacked=attacked, won=won)
            for name, (attacked, won) in zip(self._names, self._counts, strict=True)
        ]

    def won(self) -> NDArray[np.bool_]:
        """The images that need no further stage; a random victim must lose in every draw."""
        return ((self.best.wins >= 1.0) if self._random else (self.best.margin > 0)).numpy()

    def resisting(self) -> NDArray[np.int64]:
        return np.flatnonzero(~self.won())

    def keep_better(self, rows: NDArray[np.int64], found: Ascended, name: str) -> None:
        """Keep better patches of ``rows``, the images that resisted so far."""
        self.best.keep_better(torch.from_numpy(rows), found)
        self._names.append(name)
        self._counts.append([len(rows), int(self.won()[rows].sum())])

    def stage_done(self) -> None:
        self.stages_done += 1
        if self._path is None:
            return
        arrays: dict[str, NDArray[Any]] = {
            "patch": self.best.patch.numpy(),
            "margin": self.best.margin.numpy(),
            "wins": self.best.wins.numpy(),
            "stages_done": np.array(self.stages_done),
            "names": as_array("\n".join(self._names)),
            "counts": np.array(self._counts, np.int64).reshape(-1, 2),
            "identity": as_array(self._identity),
        }
        write_npz(self._path, arrays)


def _identity(
    victim: Victim,
    attacked: Attacked,
    settings: AdaptiveSettings,
    stages: tuple[Stage, ...],
    transferred: Mapping[str, NDArray[np.uint8]],
    seed: int,
    draws: int,
) -> str:
    names = [asdict(stage) for stage in stages]
    about = [settings.as_record(), list(victim.bit_widths), victim.noisy, seed, draws, names]
    digest = hashlib.sha256(json_bytes([*about, sorted(transferred)]))
    arrays = [attacked.images, attacked.labels, attacked.positions, *transferred.values()]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    digest_state(digest, victim.network)
    return digest.hexdigest()
