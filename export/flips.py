"""Flips: where the integer reference has another code than the fake-quantized network.

The engine is held to the reference without tolerance (:mod:`export.parity`); the reference is held
to fake quantization within a budget, since torch rounds its float32 sums where integers do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import InputError
from export.fake_quantized import Batch
from export.parity_report import Budget, LayerParity


class FlipTally:
    """Counts over batches; ``zero_points`` are those of the file's tensors of codes."""

    def __init__(
        self,
        fake_quantized: Callable[[NDArray[np.uint8]], Batch],
        zero_points: Mapping[str, int],
    ) -> None:
        self.fake_quantized = fake_quantized
        self.zero_points = zero_points
        self.flips: dict[str, int] = {}
        self.largest: dict[str, int] = {}
        self.logits: list[NDArray[np.float32]] = []

    def add(self, images: NDArray[np.uint8], reference: Mapping[str, NDArray[np.uint8]]) -> None:
        """Run the fake-quantized network on a batch, uint8 N×3×H×W, and compare it with the
        reference's codes, uint8 N×… by tensor name.

        Raises:
            InputError: the network has a layer that the file has not, or of another size.
        """
        logits, codes = self.fake_quantized(images)
        self.logits.append(logits)
        for name, theirs in codes.items():
            if name not in reference or reference[name].size != theirs.size:
                raise InputError(
                    f"the fake-quantized network has a layer {name!r} of {theirs.size} codes, "
                    "which the file has not: they are not one network; export again"
                )
            ours = reference[name].reshape(len(images), -1).astype(np.int16)
            gap = np.abs(ours - self.zero_points[name] - theirs.reshape(len(images), -1))
            self.flips[name] = self.flips.get(name, 0) + int(np.count_nonzero(gap))
            self.largest[name] = max(self.largest.get(name, 0), int(gap.max(initial=0)))

    @property
    def predictions(self) -> NDArray[np.int64]:
        """Classes of the fake-quantized network, so far, [N]."""
        return np.concatenate(self.logits).argmax(axis=1)

    def layers(self, layers: Sequence[LayerParity]) -> tuple[LayerParity, ...]:
        """The layers with their flips."""
        return tuple(
            replace(
                one, flips=self.flips.get(one.tensor), largest_flip=self.largest.get(one.tensor)
            )
            for one in layers
        )

    def facts(
        self, layers: Sequence[LayerParity], reference_logits: NDArray[np.float32]
    ) -> dict[str, Any]:
        """The fields of a parity report that tell of fake quantization as a whole.

        The logits are compared as bytes: 0 and -0 differ.
        """
        theirs = np.concatenate(self.logits)
        different = theirs.view(np.uint32) != reference_logits.view(np.uint32)
        gap = np.abs(theirs.astype(np.float64) - reference_logits)
        return {
            "first_flip": next((layer.tensor for layer in layers if layer.flips), None),
            "fake_logits_different": int(np.count_nonzero(different)),
            "largest_fake_logit_difference": float(gap.max()),
        }


def over_budget(
    budget: Budget,
    layers: Sequence[LayerParity],
    facts: Mapping[str, Any],
    prediction_flips: int,
    images: int,
) -> list[str]:
    """Why the reference is further from fake quantization than ``budget`` allows, a sentence each.

    Of the layers the first one over the budget is named: what follows inherits its flips.
    """
    failures: list[str] = []
    for layer in layers:
        most = budget.largest_code_flip
        wide = most is not None and (layer.largest_flip or 0) > most
        if layer.flip_share > budget.code_flips or wide:
            failures.append(
                f"layer {layer.tensor!r} has {layer.flips:,} of {layer.values:,} codes "
                f"({layer.flip_share:.3%}) other than the fake-quantized network, by at most "
                f"{layer.largest_flip}; the budget is {budget.code_flips:.3%}"
                + ("" if most is None else f", by at most {most}")
            )
            break
    if prediction_flips > budget.prediction_flips * images:
        failures.append(
            f"{prediction_flips:,} of {images:,} images ({prediction_flips / images:.3%}) have "
            f"another class than in the fake-quantized network; the budget is "
            f"{budget.prediction_flips:.3%}"
        )
    if budget.logits_equal and facts["fake_logits_different"]:
        failures.append(
            f"{facts['fake_logits_different']:,} logits are not fake quantization's bytes, "
            f"by at most {facts['largest_fake_logit_difference']:.9g}; an exact network has none"
        )
    return failures
