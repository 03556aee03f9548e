"""The checks: the question of each, when it trips, and the source of the idea."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of the list in docs/checks.md."""

    title: str
    trips: str
    source: str


_CARLINI = "Carlini et al. 2019"
_ATHALYE = "Athalye, Carlini, Wagner 2018"
_TRAMER = "Tramer et al. 2020"
_CROCE = "Croce et al. 2022"

CATALOGUE: dict[str, Check] = {
    "gradient-reaches-patch": Check(
        title="A small step along the gradient raises the loss, more than a random one",
        trips="it raises the loss of no more images than a step of random signs",
        source=_ATHALYE,
    ),
    "zero-gradients": Check(
        title="No zero or NaN gradients in the patch, for margin and cross-entropy",
        trips="any NaN; or zero on so many images that the interval is above 5%",
        source=_CARLINI,
    ),
    "logits": Check(
        title="The network gives logits, not probabilities",
        trips="every output is in 0…1 and every row sums to 1",
        source="Carlini and Wagner 2017",
    ),
    "randomness": Check(
        title="Two passes give the same logits and gradients",
        trips="one of them differs at a fixed bit-width",
        source=_ATHALYE,
    ),
    "single-step": Check(
        title="One step is weaker than many",
        trips="many steps win no more images than one, unless one wins 95% already",
        source=_ATHALYE,
    ),
    "doubled-steps": Check(
        title="Twice the steps change the ASR by less than 1 point",
        trips="the paired interval of the gain is above 1 point",
        source=_CARLINI,
    ),
    "random-patch": Check(
        title="A random patch is weaker than an optimized one",
        trips="the optimized one wins no more images, unless random wins 95% already",
        source=_CARLINI,
    ),
    "gradient-free": Check(
        title="Sparse-RS is weaker than the white-box attack",
        trips="the paired interval of its lead is above 0",
        source=_ATHALYE,
    ),
    "transfer": Check(
        title="A patch made on another network is weaker than the white-box attack",
        trips="the paired interval of its lead is above 0",
        source=_CARLINI,
    ),
    "area": Check(
        title="The ASR rises with the patch's area",
        trips="the paired interval of a smaller patch's lead is above 0, or the ASR is the same at "
        "every size and under 95%",
        source=_TRAMER,
    ),
    "full-image": Check(
        title="A patch as large as the image always wins, from random pixels or from grey",
        trips="the interval of the ASR is under 99%",
        source=_ATHALYE,
    ),
    "loss-surface": Check(
        title="The gradient is much the same two pixel values away",
        trips="the mean cosine is under 0.2, about three standard deviations of chance at 8×8",
        source=_CROCE,
    ),
    "bytes": Check(
        title="What the attack won is won again from PNG files",
        trips="a byte differs, or the paired interval of the loss is above 1 point",
        source=_TRAMER,
    ),
    "undefended": Check(
        title="The same attack breaks an undefended network",
        trips="the interval of its ASR there is under 90%",
        source=_CARLINI,
    ),
    "planted-fakes": Check(
        title="It breaks that network behind each planted fake, by going round the fake",
        trips="the interval of its ASR on one of them is under 90%",
        source=_TRAMER,
    ),
}
"""Every check by its name, in the order of the document."""
