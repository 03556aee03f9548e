"""One side of ``benchmarks.patch_attacks``: told ``go``, it takes a round of steps.

    python -m benchmarks.patch_attack_side PLACEMENT RUN DATA ROUNDS IMAGES TARGET SIDE OUT.npz

OUT.npz gets the patch and, of ART's, which images it fooled by ART's own count and by ours;
OUT.json the attack success rate, by ours.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.patch_attacks import BATCH, SIZE, STEPS_A_ROUND
from deploy.core.files import write_json, write_npz
from deploy.core.pasting import paste
from deploy.core.success import AttackSuccess, attack_success
from eval.attacks import Gap, GapSettings
from eval.attacks.placement import positions_for
from eval.attacks.predictions import predict
from training.allocator import keep_freed_memory
from training.data import ImageSet
from training.data.subset import chosen_indices
from training.networks import Network
from training.run_folder import RunFolder

TURN_DEGREES, SCALES = 22.5, (0.8, 1.2)
ROUND = STEPS_A_ROUND * BATCH
"""Images of a round, each seen once by ART."""


def main() -> int:
    """Run one side."""
    placement, run, data, rounds, count, target, side, out = sys.argv[1:]
    if side != "adam":
        keep_freed_memory()
    torch.set_num_threads(1)
    folder = RunFolder.open(Path(run))
    network = folder.load_network()
    made_on = folder.images(Path(data), "train")
    own = chosen_indices(len(made_on), ROUND)
    images, labels = made_on.images[own], made_on.labels[own]
    wanted = None if target == "None" else int(target)
    tried_on = folder.images(Path(data), "test")
    if side == "ours":
        patch, extra = _ours(network, images, labels, placement, int(rounds), wanted), {}
    else:
        theirs = Theirs(network, placement, side, wanted)
        patch = theirs.optimized(images, labels, int(rounds))
        extra = theirs.agreement(network, patch, tried_on, int(count))
    success = _success(network, patch, placement, tried_on, int(count), wanted)
    write_json(Path(out).with_suffix(".json"), success.share)
    write_npz(Path(out), {"patch": patch, **extra})
    print("done", flush=True)
    return 0


def _wait() -> None:
    assert sys.stdin.readline().strip() == "go"


# ---------------------------------------------------------------- ours


def _ours(
    network: Network,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    placement: str,
    rounds: int,
    target: int | None,
) -> NDArray[np.uint8]:
    turned = placement == "turned"
    settings = GapSettings(
        size_px=SIZE,
        steps=rounds * STEPS_A_ROUND,
        batch_size=BATCH,
        placement="centre" if placement == "centre" else "random",
        target=target,
        rotation_degrees=TURN_DEGREES if turned else 0.0,
        scale_range=SCALES if turned else (1.0, 1.0),
    )
    attack = _Paced(settings)
    made = attack.run(network, images, labels, torch.Generator().manual_seed(0), progress=False)
    return made.patch


class _Paced(Gap):
    """GAP that waits for ``go`` before each round of steps and says what the round took."""

    def optimize(self, problem: Any, stepped: Callable[[], None]) -> Any:
        """As ``Gap.optimize``."""
        done, start = 0, 0.0

        def paced() -> None:
            nonlocal done, start
            stepped()
            done += 1
            if done % STEPS_A_ROUND == 0:
                print("took", time.perf_counter() - start, flush=True)
                if done < self.settings.steps:
                    _wait()
                    start = time.perf_counter()

        print("ready", flush=True)
        _wait()
        start = time.perf_counter()
        return super().optimize(problem, paced)


# ---------------------------------------------------------------- ART's


class _Float(nn.Module):
    """The network at 32 bits, as ART takes it: pixels 0…255 to logits."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits, float N×C."""
        found: Tensor = self.network(pixels)
        return found


class Theirs:
    """ART's attack with its own defaults but for what must be equal on both sides."""

    def __init__(
        self, network: Network, placement: str, optimizer: str, target: int | None
    ) -> None:
        from art.attacks.evasion import AdversarialPatchPyTorch
        from art.estimators.classification import PyTorchClassifier

        network.set_bit_width(32)
        self._target = target
        self._classifier = PyTorchClassifier(
            model=_Float(network).eval(),
            loss=nn.CrossEntropyLoss(),
            input_shape=(3, 32, 32),
            nb_classes=network.spec.classes,
            clip_values=(0.0, 255.0),
            device_type="cpu",
        )
        low, high = SCALES if placement == "turned" else (1.0, 1.0)
        corner = (32 - SIZE) // 2
        self._attack = AdversarialPatchPyTorch(
            self._classifier,
            rotation_max=TURN_DEGREES if placement == "turned" else 0.0,
            # Shares of the image's side.
            scale_min=low * SIZE / 32,
            scale_max=high * SIZE / 32,
            max_iter=1,
            batch_size=BATCH,
            patch_shape=(3, SIZE, SIZE),
            patch_location=(corner, corner) if placement == "centre" else None,
            patch_type="square",
            optimizer="Adam" if optimizer == "adam" else "pgd",
            targeted=target is not None,
            verbose=False,
        )

    def optimized(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], rounds: int
    ) -> NDArray[np.uint8]:
        """The patch after so many passes over the images, uint8 1×3×h×w, as ART would show it."""
        pixels = images.astype(np.float32)
        wanted = labels if self._target is None else np.full_like(labels, self._target)
        print("ready", flush=True)
        for _ in range(rounds):
            _wait()
            start = time.perf_counter()
            self._attack.generate(x=pixels, y=wanted)
            print("took", time.perf_counter() - start, flush=True)
        # Its patch is stretched to the image and shrunk to the place, which blends neighbours a
        # little: what it optimized is what it shows.
        shown = self._on(np.zeros((1, 3, 32, 32), np.float32), None)
        corner = (32 - SIZE) // 2
        cut = shown[:, :, corner : corner + SIZE, corner : corner + SIZE]
        return np.rint(np.clip(cut, 0.0, 255.0)).astype(np.uint8)

    def agreement(
        self, network: Network, patch: NDArray[np.uint8], images: ImageSet, count: int
    ) -> dict[str, NDArray[np.generic]]:
        """Success of the patch at the centre, image for image: by ART alone, and by ours."""
        from art.utils import compute_success_array

        chosen = chosen_indices(len(images), count)
        clean, labels = images.images[chosen], images.labels[chosen]
        # A pixel as a square of 4×4, of which ART's nearest pixel takes one: no blending.
        stretched = np.kron(patch[0], np.ones((1, 32 // SIZE, 32 // SIZE))).astype(np.float32)
        theirs_shown = self._on(clean.astype(np.float32), stretched)
        wanted = labels if self._target is None else np.full_like(labels, self._target)
        theirs = compute_success_array(
            self._classifier,
            clean.astype(np.float32),
            np.eye(network.spec.classes)[wanted],
            theirs_shown,
            targeted=self._target is not None,
        )
        corner = np.full((count, 2), (32 - SIZE) // 2, np.int32)
        shown = paste(clean, patch, np.ones((SIZE, SIZE), np.bool_), corner)
        before, after = (predict(network, pixels, 32) for pixels in (clean, shown))
        ours = attack_success(before, after, labels, self._target)
        # ART counts every image; ours are those right without the patch (and not the target).
        return {
            "ours": ours.success,
            "theirs": theirs.astype(np.bool_) & ours.eligible,
            "pixels_that_differ": np.array(np.count_nonzero(theirs_shown != shown)),
        }

    def _on(
        self, pixels: NDArray[np.float32], patch: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Pixels with the patch (its own where None) at the centre, by ART's own pasting."""
        from art.attacks.evasion import AdversarialPatchPyTorch

        own = self._attack._patch.detach().cpu().numpy().astype(np.float32)
        shown = own if patch is None else patch
        centre = np.zeros((1, 32, 32), np.bool_)
        centre[0, 16, 16] = True
        pasting = AdversarialPatchPyTorch(
            self._classifier,
            rotation_max=0.0,
            patch_shape=shown.shape,
            patch_type="square",
            verbose=False,
        )
        found: NDArray[np.float32] = pasting.apply_patch(
            pixels, scale=SIZE / 32, patch_external=shown, mask=centre
        )
        return found


def _success(
    network: Network,
    patch: NDArray[np.uint8],
    placement: str,
    images: ImageSet,
    count: int,
    target: int | None,
) -> AttackSuccess:
    chosen = chosen_indices(len(images), count)
    places = positions_for(
        "centre" if placement == "centre" else "random",
        count,
        (32, 32),
        (SIZE, SIZE),
        torch.Generator().manual_seed(1),
    )
    clean = images.images[chosen]
    mask = np.ones((SIZE, SIZE), np.bool_)
    shown = paste(clean, patch, mask, places.numpy().astype(np.int32))
    before, after = (predict(network, pixels, 32) for pixels in (clean, shown))
    return attack_success(before, after, images.labels[chosen], target)


if __name__ == "__main__":
    raise SystemExit(main())
