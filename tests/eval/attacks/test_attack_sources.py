"""Sources beside a single network: ensembles and engines."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deploy.core.errors import InputError
from deploy.core.success import attack_success
from eval.attacks.engine_network import EngineNetwork
from eval.attacks.ensemble import Ensemble
from eval.attacks.lavan import Lavan, LavanSettings
from eval.attacks.predictions import logits, predict
from eval.attacks.sparse_rs import SparseRs, SparseRsSettings
from tests.eval.conftest import DigitNetwork
from training.data import ImageSet
from training.prediction import SwitchableNetwork

SHA = "ab" * 32


class FixedBatchEngine:
    """A real network at 4 bits behind the protocol of an engine, 50 images a run."""

    name = "torch-behind-a-protocol"
    input_shape = (3, 32, 32)
    batch_size: int | None = 50
    classes = 10
    threads = 1

    def __init__(self, network: SwitchableNetwork) -> None:
        self.network = network
        self.images = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert batch.dtype == np.uint8
        assert len(batch) == self.batch_size
        self.images += len(batch)
        return logits(self.network, batch, 4)

    def predict(self, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.int64]:
        return predict(self.network, images, 4)


def test_an_engine_is_attacked_through_its_bytes(
    digit_network: SwitchableNetwork, held_out_digits: ImageSet
) -> None:
    engine = FixedBatchEngine(digit_network)
    source = EngineNetwork(engine, 4, SHA)
    images, labels = held_out_digits.images[:60], held_out_digits.labels[:60]
    settings = SparseRsSettings(size_px=10, steps=40, bit_widths=(4,))
    made, on_network = (
        SparseRs(settings).run(
            network,
            images,
            labels,
            torch.Generator().manual_seed(0),
            progress=False,
        )
        for network in (source, digit_network)
    )
    # The same answers give the same patches: an engine is nothing but another source of logits.
    assert np.array_equal(made.patch, on_network.patch)
    assert np.array_equal(made.positions, on_network.positions)
    assert engine.images > 60
    won = attack_success(
        engine.predict(images), engine.predict(made.paste_on(images)), labels, None
    )
    assert won.share["value"] > 0.1


def test_what_an_engine_cannot_do_is_said(
    digit_network: SwitchableNetwork, digits: ImageSet
) -> None:
    source = EngineNetwork(FixedBatchEngine(digit_network), 4, SHA)
    images, labels = digits.images[:4], digits.labels[:4]
    with pytest.raises(InputError, match="follows gradients, and an engine has none"):
        Lavan(LavanSettings(bit_widths=(4,))).run(source, images, labels, torch.Generator())
    with pytest.raises(InputError, match="runs a 4-bit model"):
        SparseRs(SparseRsSettings()).run(source, images, labels, torch.Generator())


def test_an_ensemble_is_the_mean_of_its_members(
    digit_network: SwitchableNetwork, other_digit_network: SwitchableNetwork, digits: ImageSet
) -> None:
    both = Ensemble([digit_network, other_digit_network])
    images = digits.images[:20]
    apart = [logits(network, images, 4) for network in (digit_network, other_digit_network)]
    np.testing.assert_allclose(
        logits(both, images, 4), np.mean(apart, axis=0), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(InputError, match="one or more"):
        Ensemble([])


def test_a_patch_against_an_ensemble_wins_on_both(
    digit_network: SwitchableNetwork,
    other_digit_network: SwitchableNetwork,
    held_out_digits: ImageSet,
) -> None:
    images, labels = held_out_digits.images[:100], held_out_digits.labels[:100]

    def won(source: SwitchableNetwork, target: SwitchableNetwork) -> float:
        made = Lavan(LavanSettings(size_px=8, steps=15)).run(
            source, images, labels, torch.Generator().manual_seed(0), progress=False
        )
        clean = predict(target, images, 32)
        return attack_success(clean, predict(target, made.paste_on(images), 32), labels).share[
            "value"
        ]

    both = Ensemble([digit_network, other_digit_network])
    for member, other in (
        (digit_network, other_digit_network),
        (other_digit_network, digit_network),
    ):
        assert won(both, member) > won(other, member)


def test_the_queries_of_a_search_are_those_of_all_its_restarts(
    digit_network: DigitNetwork, held_out_digits: ImageSet
) -> None:
    shown = 0

    def count(_: object, given: tuple[torch.Tensor]) -> None:
        nonlocal shown
        shown += len(given[0])

    images, labels = held_out_digits.images[:4], held_out_digits.labels[:4]
    attack = SparseRs(SparseRsSettings(size_px=1, steps=20, restarts=3))
    with digit_network.register_forward_pre_hook(count):
        attack.run(digit_network, images, labels, torch.Generator().manual_seed(0), progress=False)
    # Each restart is judged, the best once more beside the clean images; one is asked for classes.
    judged = (3 + 2) * len(images) + 1
    assert attack.queries_per_image() == 60
    assert 40 * len(images) < shown - judged <= 60 * len(images)
