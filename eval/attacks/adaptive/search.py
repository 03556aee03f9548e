"""The cascade of ascents against one victim, kept in a file so that it can be resumed.

Each stage attacks only the images that no earlier one has won; per image the best patch of all is
kept, so the result is the worst case over variants, losses, starts and restarts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import TypedDict

from deploy.core.errors import InputError
from deploy.core.files import json_bytes, read_npz, write_npz
from deploy.core.pasting import paste
from eval.attacks.adaptive.adaptive_settings import AdaptiveSettings, Stage, cascade
from eval.attacks.adaptive.ascent import Ascended, AscentSettings, ascend, likeliest_wrong
from eval.attacks.adaptive.straight_through import variants_of
from eval.attacks.adaptive.victim import Victim
from eval.attacks.judging import generator_for
from eval.attacks.losses import attack_loss
from eval.attacks.predictions import logits
from training.patching import square_mask
from training.progress import Progress
from training.validated import AtLeast0


class StageResult(TypedDict):
    """What one stage added."""

    stage: str
    attacked: AtLeast0
    """Images that had resisted until then."""
    won: AtLeast0


@dataclass(frozen=True, kw_only=True, eq=False)
class Attacked:
    """The images of one attack, all right without a patch: uint8 N×3×H×W, int64 N, int64 N×2."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Searched:
    """Best patch of each image, uint8 N×3×h×w, whether it won as the search saw it, bool N, and
    what each stage added."""

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
        victim: the network; for several bit-widths or a noisy one give ``draws``, K.
        seed: of the starts and of the victim's draws.
        transferred: patches made elsewhere for the same images, uint8 N×3×h×w, by name: tried
            first as they are, and the best so far is where a "transferred" stage starts.
        resume_from: an npz file written after each stage.

    Raises:
        InputError: ``resume_from`` belongs to another search.
    """
    bits = victim.bit_widths[0]
    stages = cascade(variants_of(victim.network, bits)) * settings.restarts
    given = dict(transferred or {})
    identity = _identity(victim, attacked, settings, stages, given, seed, draws)
    state = _State.begin(resume_from, identity, len(attacked.images), settings.size_px)
    mask = square_mask(settings.size_px)
    if state.stages_done == 0:
        for name, patch in given.items():
            _try_as_it_is(victim, attacked, patch, mask, state, name, seed, draws)
    with Progress(title, len(stages) * len(attacked.images), shown=progress) as bar:
        bar.advance(state.stages_done * len(attacked.images))
        for number, stage in enumerate(stages):
            if number < state.stages_done:
                continue
            rows = np.flatnonzero(~state.won(victim.random))
            draw = generator_for(seed, f"{bits} {draws} {number}")
            toward = _toward(victim, attacked, stage, rows, draw)
            if len(rows) and (stage.toward is None or toward is not None):
                found = ascend(
                    victim,
                    torch.from_numpy(attacked.images[rows]),
                    torch.from_numpy(attacked.labels[rows]),
                    mask,
                    torch.from_numpy(attacked.positions[rows]),
                    _start(stage, state, rows, draw),
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
                state.keep_better(rows, found, stage.name, victim.random)
            else:
                rows = rows[:0]
            bar.advance(
                len(attacked.images) - len(rows),
                f"{stage.name}: {state.won(victim.random).mean():.1%} won",
            )
            state.stage_done()
    return Searched(patch=state.patch, won=state.won(victim.random), stages=state.results)


def _toward(
    victim: Victim,
    attacked: Attacked,
    stage: Stage,
    rows: NDArray[np.int64],
    draw: torch.Generator,
) -> Tensor | None:
    """The class that each image is driven to, int64; None: none, or there are too few classes."""
    if stage.toward is None or not len(rows):
        return None
    images, labels = attacked.images[rows], attacked.labels[rows]
    wrong = likeliest_wrong(victim, torch.from_numpy(images), torch.from_numpy(labels), draw)
    return wrong[:, stage.toward - 1] if stage.toward <= wrong.shape[1] else None


def _start(stage: Stage, state: _State, rows: NDArray[np.int64], draw: torch.Generator) -> Tensor:
    shape = (len(rows), *state.patch.shape[1:])
    if stage.start == "grey":
        return torch.full(shape, 128, dtype=torch.uint8)
    random = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    if stage.start == "random":
        return random
    known = torch.from_numpy(np.isfinite(state.margin[rows]))[:, None, None, None]
    return torch.where(known, torch.from_numpy(state.patch[rows]), random)


def _try_as_it_is(
    victim: Victim,
    attacked: Attacked,
    patch: NDArray[np.uint8],
    mask: Tensor,
    state: _State,
    name: str,
    seed: int,
    draws: int,
) -> None:
    rows = np.flatnonzero(~state.won(victim.random))
    if not len(rows):
        return
    pasted = paste(
        attacked.images[rows], patch[rows], mask.numpy(), attacked.positions[rows].astype(np.int32)
    )
    labels = torch.from_numpy(attacked.labels[rows])
    draw = generator_for(seed, f"{name} as it is")
    margins = []
    for _ in range(draws):
        with victim.drawn(draw) as bits:
            found = torch.from_numpy(logits(victim.network, pasted, bits))
        margins.append(attack_loss("margin", found, labels, None))
    stacked = torch.stack(margins)
    result = Ascended(
        patch=torch.from_numpy(patch[rows]),
        margin=stacked.mean(dim=0),
        wins=(stacked > 0).float().mean(dim=0),
    )
    state.keep_better(rows, result, f"{name} as it is", victim.random)


class _State:
    """Best patches so far and the stages that are done, in a file where there is one."""

    def __init__(self, path: Path | None, identity: str, arrays: Mapping[str, Any]) -> None:
        self._path = path
        self._identity = identity
        self.patch: NDArray[np.uint8] = arrays["patch"]
        self.margin: NDArray[np.float32] = arrays["margin"]
        self.wins: NDArray[np.float32] = arrays["wins"]
        self.stages_done = int(arrays["stages_done"])
        self._names = bytes(arrays["names"]).decode().split("\n") if arrays["names"].size else []
        self._counts: list[list[int]] = arrays["counts"].tolist()

    @classmethod
    def begin(cls, path: Path | None, identity: str, count: int, size_px: int) -> _State:
        if path is not None and path.exists():
            arrays = read_npz(path)
            if set(arrays) != {*_FIELDS, "identity"}:
                raise InputError(f"{path} is no resume file of a search; remove it to start anew.")
            if arrays["identity"].tobytes().decode("ascii", "replace") != identity:
                raise InputError(
                    f"{path} belongs to a search with other settings, images, seed or network; "
                    "remove it to start anew."
                )
            return cls(path, identity, arrays)
        nothing = {
            "patch": np.zeros((count, 3, size_px, size_px), np.uint8),
            "margin": np.full(count, -np.inf, np.float32),
            "wins": np.zeros(count, np.float32),
            "stages_done": np.array(0),
            "names": np.zeros(0, np.uint8),
            "counts": np.zeros((0, 2), np.int64),
        }
        return cls(path, identity, nothing)

    @property
    def results(self) -> list[StageResult]:
        return [
            StageResult(stage=name, attacked=attacked, won=won)
            for name, (attacked, won) in zip(self._names, self._counts, strict=True)
        ]

    def won(self, random: bool) -> NDArray[np.bool_]:
        """What needs no further stage; a random victim must lose in every draw for that."""
        return (self.wins >= 1.0) if random else (self.margin > 0)

    def keep_better(
        self, rows: NDArray[np.int64], found: Ascended, name: str, random: bool
    ) -> None:
        before = self.won(random)[rows]
        margin, wins = found.margin.numpy(), found.wins.numpy()
        better = (wins > self.wins[rows]) | (
            (wins == self.wins[rows]) & (margin > self.margin[rows])
        )
        chosen = rows[better]
        self.patch[chosen] = found.patch.numpy()[better]
        self.margin[chosen], self.wins[chosen] = margin[better], wins[better]
        self._names.append(name)
        self._counts.append([len(rows), int((self.won(random)[rows] & ~before).sum())])

    def stage_done(self) -> None:
        self.stages_done += 1
        if self._path is None:
            return
        arrays: dict[str, NDArray[Any]] = {
            "patch": self.patch,
            "margin": self.margin,
            "wins": self.wins,
            "stages_done": np.array(self.stages_done),
            "names": np.frombuffer("\n".join(self._names).encode(), np.uint8),
            "counts": np.array(self._counts, np.int64).reshape(-1, 2),
            "identity": np.frombuffer(self._identity.encode("ascii"), np.uint8),
        }
        write_npz(self._path, arrays)


_FIELDS = ("patch", "margin", "wins", "stages_done", "names", "counts")


def _identity(
    victim: Victim,
    attacked: Attacked,
    settings: AdaptiveSettings,
    stages: tuple[Stage, ...],
    transferred: Mapping[str, NDArray[np.uint8]],
    seed: int,
    draws: int,
) -> str:
    digest = hashlib.sha256()
    names = [asdict(stage) for stage in stages]
    about = [settings.as_record(), list(victim.bit_widths), victim.noisy, seed, draws, names]
    digest.update(json_bytes([*about, sorted(transferred)]))
    arrays = [attacked.images, attacked.labels, attacked.positions, *transferred.values()]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    for key, value in sorted(victim.network.state_dict().items()):
        digest.update(key.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
