"""The checks of one network at one bit-width.

All attacks here are per image, on the same images, at the same places; comparisons of two attacks
are paired (Newcombe's interval), so that sampling noise trips nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deploy.device.errors import InputError, NothingToEvaluate
from deploy.device.pasting import paste
from deploy.device.sparse_rs import SparseRsSettings, search_per_image
from deploy.device.statistics import paired_difference
from eval.adaptive.ascent import AscentSettings, ascend
from eval.adaptive.straight_through import attacked as attacking
from eval.adaptive.victim import Victim, found_random, pixel_gradient
from eval.attacks.judging import generator_for
from eval.attacks.losses import Loss, attack_loss
from eval.attacks.placement import positions_for
from eval.checks.record import CheckResult, Status
from eval.evaluation_record import Share, share
from eval.predictions import SwitchableNetwork, evaluation_mode, logits
from training.patching import paste as paste_torch
from training.patching import patch_gradient, square_mask

Flags = NDArray[np.bool_]

ALWAYS = 0.95
"""An attack that wins on this share cannot be asked to be much weaker than another."""


@dataclass(frozen=True, kw_only=True)
class BatterySettings:
    """How the checks attack.

    Attributes:
        images: how many are attacked.
        size_px: side of the patch; half of it and twice it are tried too.
        steps: of the white-box attack; doubled in one check.
        queries: of the gradient-free attack, per image.
        batch_size: images a step.
        seed: of all starts.

    Raises:
        InputError: a value under its least.
    """

    images: int = 96
    size_px: int = 8
    steps: int = 40
    queries: int = 300
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            *(("images", 8), ("size_px", 2), ("steps", 2)),
            *(("queries", 10), ("batch_size", 1), ("seed", 0)),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"The checks' {name} must be at least {least}, got {value!r}.")


class Battery:
    """Runs the checks on a network; ``images`` uint8 N×3×H×W and ``labels`` int64 N."""

    def __init__(
        self,
        network: SwitchableNetwork,
        bits: int,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        settings: BatterySettings,
    ) -> None:
        self.network, self.bits, self.settings = network, bits, settings
        right = logits(network, images, bits).argmax(axis=1) == labels
        if not right.any():
            raise NothingToEvaluate(
                f"at {bits} bits the network has none of {len(images)} images right: there is "
                "nothing to attack"
            )
        self.images, self.labels = images[right], labels[right]
        self.pixels = torch.from_numpy(self.images)
        self.classes = torch.from_numpy(self.labels)
        self.victim = Victim(network=network, bit_widths=(bits,))
        self._attacks: dict[tuple[int, int], tuple[Flags, NDArray[np.uint8]]] = {}

    def run(
        self,
        *,
        transferred: SwitchableNetwork | None = None,
        undefended: SwitchableNetwork | None = None,
    ) -> list[CheckResult]:
        """All checks, in the catalogue's order.

        Args:
            transferred: the network that a transferred patch is made on, at 32 bits.
            undefended: the network that the attack must break, at this bit-width if it has it.
        """
        return [
            self.gradient_reaches_patch(),
            self.zero_gradients(),
            self.gives_logits(),
            self.randomness(),
            self.single_step(),
            self.doubled_steps(),
            self.random_patch(),
            self.gradient_free(),
            self.transfer(transferred),
            self.area(),
            self.full_image(),
            self.loss_surface(),
            self.bytes_kept(),
            self.breaks_undefended(undefended),
        ]

    # ------------------------------------------------------------------ gradients

    def gradient_reaches_patch(self) -> CheckResult:
        """The loss after a step of 4 pixel values along the sign, against random signs."""
        start = self._start(self.settings.size_px)
        before, gradient = self._loss_and_gradient(start, "margin")
        signs = torch.randint(0, 2, gradient.shape, generator=self._draw("signs")) * 2.0 - 1.0
        rises = []
        for direction in (gradient.sign(), signs):
            moved = (start.float() + 4.0 * direction).clamp(0.0, 255.0)
            after, _ = self._loss_and_gradient(moved, "margin")
            rises.append((after > before).numpy())
        along, by_chance = rises
        lead, interval = paired_difference(along, by_chance)
        status = _status(tripped=lead <= 0.0, passed=interval.low > 0.0)
        return _result(
            "gradient-reaches-patch",
            status,
            f"the loss rises on {_percent(along)} of the images along the gradient, "
            f"{_percent(by_chance)} at random",
            along=_share(along),
            random=_share(by_chance),
        )

    def zero_gradients(self) -> CheckResult:
        """NaN and zero gradients in the patch, under both losses."""
        start = self._start(self.settings.size_px)
        figures: dict[str, Any] = {}
        broken, least, most = False, 0.0, 0.0
        for loss in ("margin", "cross-entropy"):
            _, gradient = self._loss_and_gradient(start, loss)
            nan = (~torch.isfinite(gradient)).flatten(1).any(dim=1).numpy()
            zero = (gradient == 0).flatten(1).all(dim=1).numpy()
            figures[loss] = {"nan": _share(nan), "zero": _share(zero)}
            broken |= bool(nan.any())
            least = max(least, figures[loss]["zero"]["low"])
            most = max(most, figures[loss]["zero"]["high"])
        status = _status(tripped=broken or least > 0.05, passed=most < 0.1)
        said = ", ".join(
            f"{loss}: zero on {of['zero']['value']:.1%}, NaN on {of['nan']['value']:.1%}"
            for loss, of in figures.items()
        )
        return _result("zero-gradients", status, said, **figures)

    def gives_logits(self) -> CheckResult:
        """Whether the outputs are a distribution."""
        found = logits(self.network, self.images, self.bits)
        sums = np.abs(found.sum(axis=1) - 1.0).max()
        distribution = bool(found.min() >= 0.0 and found.max() <= 1.0 and sums < 1e-3)
        return _result(
            "logits",
            "tripped" if distribution else "passed",
            f"outputs in {found.min():.2f}…{found.max():.2f}",
            least=float(found.min()),
            most=float(found.max()),
        )

    def randomness(self) -> CheckResult:
        """Two passes over the same images."""
        found = found_random(self.network, self.pixels[:32].float(), self.bits)
        names = [name for name in ("logits", "gradients") if getattr(found, name)]
        return _result(
            "randomness",
            "tripped" if names else "passed",
            f"two passes differ in {' and '.join(names)}" if names else "two passes are the same",
            logits=found.logits,
            gradients=found.gradients,
        )

    def loss_surface(self) -> CheckResult:
        """The cosine of the patch's gradients at two points two pixel values apart."""
        start = self._start(self.settings.size_px).float()
        shift = torch.randint(0, 2, start.shape, generator=self._draw("shift")) * 4.0 - 2.0
        one, other = (
            self._loss_and_gradient(patch, "margin")[1].flatten(1)
            for patch in (start, (start + shift).clamp(0.0, 255.0))
        )
        cosine = float(torch.nan_to_num(torch.cosine_similarity(one, other, dim=1)).mean())
        return _result(
            "loss-surface",
            "passed" if cosine >= 0.2 else "tripped",
            f"mean cosine {cosine:.2f}",
            cosine=cosine,
        )

    # ------------------------------------------------------------------ attacks against another

    def single_step(self) -> CheckResult:
        """One step of the attack's whole length against all of them."""
        one, many = self._won(steps=1), self._won()
        return self._weaker("single-step", one, many, "one step")

    def random_patch(self) -> CheckResult:
        """The starts themselves, as they are."""
        noise = self._rescored(self._start(self.settings.size_px).numpy())
        return self._weaker("random-patch", noise, self._won(), "random pixels")

    def doubled_steps(self) -> CheckResult:
        """The gain from twice the steps."""
        once, twice = self._won(), self._won(steps=2 * self.settings.steps)
        gain, interval = paired_difference(twice, once)
        status = _status(tripped=interval.low > 0.01, passed=abs(gain) < 0.01)
        return _result(
            "doubled-steps",
            status,
            f"{_percent(once)} at {self.settings.steps} steps, {_percent(twice)} at twice as many",
            once=_share(once),
            twice=_share(twice),
        )

    def gradient_free(self) -> CheckResult:
        """Sparse-RS at the same places."""
        mask_side = self.settings.size_px
        with evaluation_mode(self.network):
            found = search_per_image(
                lambda images: logits(self.network, images, self.bits),
                self.images,
                self.labels,
                SparseRsSettings(
                    size_px=mask_side, queries=self.settings.queries, location="fixed"
                ),
                np.random.default_rng(self.settings.seed),
                positions=self._positions(mask_side).numpy().astype(np.int32),
            )
        won = self._rescored(found.patch)
        return self._not_stronger("gradient-free", won, "Sparse-RS")

    def transfer(self, source: SwitchableNetwork | None) -> CheckResult:
        """The same attack on another network's float mode."""
        if source is None:
            return _result("transfer", "not run", "no other network was given (--source)")
        patch = self._ascend(Victim(network=source, bit_widths=(32,)), self.settings.size_px).patch
        return self._not_stronger("transfer", self._rescored(patch.numpy()), "the transferred one")

    def area(self) -> CheckResult:
        """Half the side, the side, twice the side."""
        side = min(self.images.shape[2:])
        sizes = sorted(
            {self.settings.size_px // 2, self.settings.size_px, self.settings.size_px * 2}
        )
        sizes = [size for size in sizes if size <= side]
        won = [self._won(size_px=size) for size in sizes]
        backwards = any(
            paired_difference(won[i], won[i + 1])[1].low > 0.0 for i in range(len(won) - 1)
        )
        rates = [flags.mean() for flags in won]
        flat = rates[-1] <= rates[0] and rates[0] < ALWAYS
        rising = paired_difference(won[-1], won[0])[1].low > 0.0 or rates[0] >= ALWAYS
        return _result(
            "area",
            _status(tripped=backwards or flat, passed=rising),
            ", ".join(f"{_percent(w)} at {s} px" for w, s in zip(won, sizes, strict=True)),
            **{f"{size}px": _share(flags) for size, flags in zip(sizes, won, strict=True)},
        )

    def full_image(self) -> CheckResult:
        """A patch that hides the image."""
        won = self._won(size_px=min(self.images.shape[2:]))
        rate = _share(won)
        status = _status(tripped=rate["high"] < 0.99, passed=rate["value"] >= 0.99)
        return _result("full-image", status, f"{_percent(won)}", asr=rate)

    def bytes_kept(self) -> CheckResult:
        """Claimed successes again, from PNG files that are read back."""
        claimed = self._won()
        patch = self._attacks[self.settings.size_px, self.settings.steps][1]
        pasted = self._pasted(patch)
        read = np.stack([_png_and_back(image) for image in pasted])
        same = bool(np.array_equal(read, pasted))
        again = logits(self.network, read, self.bits).argmax(axis=1) != self.labels
        _, interval = paired_difference(claimed, again)
        lost = float(claimed.mean() - again.mean())
        status = _status(tripped=not same or interval.low > 0.01, passed=same and lost < 0.01)
        return _result(
            "bytes",
            status,
            f"{_percent(claimed)} as the attack saw it, {_percent(again)} from files",
            claimed=_share(claimed),
            again=_share(again),
        )

    def breaks_undefended(self, undefended: SwitchableNetwork | None) -> CheckResult:
        """This attack on a network without a defense."""
        if undefended is None:
            return _result("undefended", "not run", "no undefended network: --undefended")
        other = Battery(undefended, self.bits, self.images, self.labels, self.settings)
        won = other._won()
        rate = _share(won)
        status = _status(tripped=rate["high"] < 0.9, passed=rate["value"] >= 0.9)
        return _result("undefended", status, f"{_percent(won)} there", asr=rate)

    # ------------------------------------------------------------------ parts

    def _weaker(self, name: str, weak: Flags, strong: Flags, words: str) -> CheckResult:
        lead, interval = paired_difference(strong, weak)
        always = weak.mean() >= ALWAYS
        status = _status(
            tripped=lead <= 0.0 and not always, passed=interval.low > 0.0 or bool(always)
        )
        said = f"{words} {_percent(weak)}, the attack {_percent(strong)}"
        return _result(name, status, said, weak=_share(weak), attack=_share(strong))

    def _not_stronger(self, name: str, other: Flags, words: str) -> CheckResult:
        strong = self._won()
        lead, interval = paired_difference(other, strong)
        status = _status(tripped=interval.low > 0.0, passed=lead <= 0.0)
        said = f"{words} {_percent(other)}, the attack {_percent(strong)}"
        return _result(name, status, said, other=_share(other), attack=_share(strong))

    def _won(self, *, size_px: int | None = None, steps: int | None = None) -> Flags:
        """What the white-box attack claims, made once for each size and number of steps."""
        size, count = size_px or self.settings.size_px, steps or self.settings.steps
        if (size, count) not in self._attacks:
            found = self._ascend(self.victim, size, count)
            self._attacks[size, count] = (found.margin.numpy() > 0, found.patch.numpy())
        return self._attacks[size, count][0]

    def _ascend(self, victim: Victim, size: int, steps: int | None = None) -> Any:
        return ascend(
            victim,
            self.pixels,
            self.classes,
            square_mask(size),
            self._positions(size),
            self._start(size),
            AscentSettings(steps=steps or self.settings.steps, batch_size=self.settings.batch_size),
            self._draw("attack"),
        )

    def _loss_and_gradient(self, patch: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """Per image: loss N and gradient of the patch N×3×h×w, as they come."""
        mask, places = square_mask(patch.shape[2]), self._positions(patch.shape[2])
        pasted = paste_torch(self.pixels.float(), patch.float(), mask, places)
        seen = pasted.requires_grad_()
        with (
            evaluation_mode(self.network),
            attacking(self.network, "clipped"),
            self.network.at(self.bits),
        ):
            found = attack_loss(loss, self.network(seen), self.classes, None)
            gradient = pixel_gradient(found.sum(), seen)
        return found.detach(), patch_gradient(gradient, mask, places)

    def _start(self, size: int) -> Tensor:
        shape = (len(self.images), 3, size, size)
        return torch.randint(0, 256, shape, generator=self._draw(f"{size}"), dtype=torch.uint8)

    def _positions(self, size: int) -> Tensor:
        height, width = self.images.shape[2:]
        return positions_for(
            "centre", len(self.images), (height, width), (size, size), self._draw("places")
        )

    def _pasted(self, patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = patch.shape[2]
        places = self._positions(size).numpy().astype(np.int32)
        return paste(self.images, patch, np.ones((size, size), np.bool_), places)

    def _rescored(self, patch: NDArray[np.uint8]) -> Flags:
        flags: Flags = logits(self.network, self._pasted(patch), self.bits).argmax(1) != self.labels
        return flags

    def _draw(self, purpose: str) -> torch.Generator:
        return generator_for(self.settings.seed, purpose)


def _png_and_back(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, format="PNG")
    file.seek(0)
    with Image.open(file) as read:
        return np.asarray(read, dtype=np.uint8).transpose(2, 0, 1)


def _status(*, tripped: bool, passed: bool) -> Status:
    if tripped:
        return "tripped"
    return "passed" if passed else "undecided"


def _result(name: str, status: Status, measured: str, **figures: Any) -> CheckResult:
    values: Mapping[str, Any] = figures
    return CheckResult(name=name, status=status, measured=measured, figures=dict(values))


def _share(flags: Flags) -> Share:
    return share(int(flags.sum()), len(flags))


def _percent(flags: Flags) -> str:
    return f"{100 * flags.mean():.1f}%"
