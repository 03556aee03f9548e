"""Whether a found patch wins on its source, judged on the bytes that will be pasted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.core.bit_widths import bits_words
from deploy.core.errors import NothingToEvaluate
from deploy.core.pasting import paste
from deploy.core.success import attack_success
from eval.attacks.losses import attack_loss
from eval.attacks.predictions import logits, predict
from eval.attacks.settings import AttackSettings
from training.prediction import SwitchableNetwork

_JUDGED_IMAGES = 5000
"""A universal patch is judged on at most this many images: the standard error of its success rate
is then under 0.7 points."""


def generator_for(base_seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose, independent of the draws for every other."""
    digest = hashlib.sha256(f"{base_seed} {purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Judge:
    """Scores patches on the source network, in the bytes of the final paste.

    A universal patch is judged at places that its optimization did not see. Every restart is judged
    on the same images and places, so that patches are compared and not draws. The winner is judged
    again on fresh ones, since the best of several is biased on those that selected it.
    """

    def __init__(
        self,
        network: SwitchableNetwork,
        settings: AttackSettings,
        mask: NDArray[np.bool_],
        draw: torch.Generator,
    ) -> None:
        self.network = network
        self._settings = settings
        self.mask = mask
        self._choosing_seed, self._final_seed = torch.randint(2**62, (2,), generator=draw).tolist()

    def per_image(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        patch: NDArray[np.uint8],
        positions: NDArray[np.int32],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Share of the source bit-widths fooled, and mean margin in logits: float64 N each."""
        pasted = paste(images, patch, self.mask, positions)
        margins = []
        for bits in self._settings.bit_widths:
            found = torch.from_numpy(logits(self.network, pasted, bits))
            wanted = attack_loss("margin", found, torch.from_numpy(labels), self._settings.target)
            margins.append(wanted.double().numpy())
        stacked = np.stack(margins)
        return (stacked > 0).mean(axis=0), stacked.mean(axis=0)

    def universal(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], patch: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As ``per_image``, averaged over images: float64 of shape (1,) each."""
        images, labels, places = self._drawn(images, labels, self._choosing_seed)
        wins, margins = self.per_image(images, labels, patch, places)
        return wins.mean(keepdims=True), margins.mean(keepdims=True)

    def success(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        patch: NDArray[np.uint8],
        positions: NDArray[np.int32] | None,
    ) -> list[dict[str, Any]]:
        """White-box ASR for each source bit-width: ``bit_width`` and ``asr``, a share or null.

        With positions None (a universal patch) images and places are drawn anew.
        """
        if positions is None:
            images, labels, positions = self._drawn(images, labels, self._final_seed)
        pasted = paste(images, patch, self.mask, positions)
        results: list[dict[str, Any]] = []
        for bits in self._settings.bit_widths:
            clean, patched = (predict(self.network, shown, bits) for shown in (images, pasted))
            try:
                won = attack_success(clean, patched, labels, self._settings.target)
                results.append({"bit_width": bits, "asr": won.share})
            except NothingToEvaluate:
                results.append({"bit_width": bits, "asr": None})
        return results

    def _drawn(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]]:
        draw = torch.Generator().manual_seed(seed)
        some = torch.randperm(len(images), generator=draw)[:_JUDGED_IMAGES].numpy()
        places = self._settings.positions(len(some), images.shape[2:], draw)
        return images[some], labels[some], places.numpy().astype(np.int32)


def success_in_words(results: Sequence[Mapping[str, Any]]) -> str:
    """The success on the source, as :meth:`Judge.success` returns it, in words."""
    parts = []
    for result in results:
        asr = result["asr"]
        width = bits_words(result["bit_width"])
        if asr is None:
            parts.append(f"no image that counts at {width}")
        else:
            interval = f"{100 * asr['low']:.1f}–{100 * asr['high']:.1f}"
            parts.append(f"{100 * asr['value']:.1f}% ({interval}, n {asr['n']}) at {width}")
    return "ASR on its source " + ", ".join(parts)
