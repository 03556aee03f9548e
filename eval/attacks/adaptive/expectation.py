"""The expectation over a network's randomness: K is raised until the result stands still."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import TypedDict

from deploy.core.pasting import paste
from deploy.core.share import share
from eval.attacks.adaptive.adaptive_settings import AdaptiveSettings
from eval.attacks.adaptive.search import Attacked, Searched
from eval.attacks.adaptive.victim import Victim
from training.record_types import Share
from training.validated import AtLeast1


class AtDraws(TypedDict):
    """The attack with K draws a step: ASR over fresh draws, ``asr["n"]`` image-draws."""

    draws: AtLeast1
    asr: Share


def raise_draws(
    run: Callable[[int], Searched],
    victim: Victim,
    attacked: Attacked,
    settings: AdaptiveSettings,
    generator: torch.Generator,
) -> tuple[Searched, list[AtDraws], bool]:
    """Attack with K = 1, 2, 4, … until the ASR over fresh draws moves by less than the settings'
    points, or K is the largest.

    A network without randomness is attacked with K = 1.

    Args:
        run: the attack with K draws a step.
        generator: of the fresh draws; not that of the attack.

    Returns:
        The strongest search, the ASR at each K, and whether it stood still.
    """

    def scored(draws: int, found: Searched) -> AtDraws:
        won = fresh_success(victim, attacked, found.patch, settings.scoring_draws, generator)
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
