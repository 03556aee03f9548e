"""The fast quantization is Brevitas' own through whole networks; passes are counted as they are."""

from __future__ import annotations

import pytest
import torch

from benchmarks.stock_quantizers import stock_quantizers
from benchmarks.training_step import (
    BASE,
    RIVALS,
    ROWS,
    Row,
    counted,
    measure,
    passes_a_step,
    started,
)
from training.defenses import check_defense
from training.gradients import FakeQuantize
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network

BIT_WIDTHS = (8, 5, 4, 2)


def network(name: str = "resnet8") -> Network:
    spec = NetworkSpec(name=name, classes=10, input_size=32, bit_widths=BIT_WIDTHS)
    return build_network(spec, torch.Generator().manual_seed(1)).train()


@pytest.mark.parametrize("row", [*ROWS, *RIVALS])
def test_every_row_has_settings_of_today(row: str) -> None:
    check_defense({**ROWS, **RIVALS}[row].defense)


def test_the_rows_that_time_quantization_itself_have_their_own_bit_widths() -> None:
    assert started(ROWS["float alone"], "resnet8", 4, size=16).network.spec.bit_widths == (32,)
    without = started(ROWS["plain QAT, without float"], "resnet8", 4, size=16).network
    assert without.spec.bit_widths == BIT_WIDTHS


@pytest.mark.parametrize(
    ("name", "bits"),
    [*(("resnet8", bits) for bits in BIT_WIDTHS), ("mobilenetv2", 8), ("mobilenetv2", 2)],
)
def test_a_network_has_the_values_and_gradients_of_brevitas_own_quantization(
    name: str, bits: int
) -> None:
    generator = torch.Generator().manual_seed(bits)
    pixels = 255.0 * torch.rand(4, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (4,), generator=generator)

    def losses_and_gradients() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor | None]]:
        own = network(name)
        own.set_bit_width(bits)
        leaf = pixels.clone().requires_grad_()
        logits = own(leaf)
        torch.nn.functional.cross_entropy(logits, labels).backward()
        assert leaf.grad is not None
        return logits.detach(), leaf.grad, [p.grad for p in own.parameters()]

    logits, at_pixels, weights = losses_and_gradients()
    with stock_quantizers():
        stock_logits, stock_at_pixels, stock_weights = losses_and_gradients()
    assert torch.equal(logits, stock_logits)
    # Brevitas multiplies each gradient by the scale and divides it again: one rounding a layer.
    largest = float(stock_at_pixels.abs().max())
    torch.testing.assert_close(at_pixels, stock_at_pixels, rtol=1e-4, atol=1e-5 * largest)
    largest = max(float(g.abs().max()) for g in stock_weights if g is not None)
    trained = 0
    for mine, theirs in zip(weights, stock_weights, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            # A scale's gradient is a sum of terms that nearly cancel, added in another order: its
            # error is relative to the terms, not to what is left of them.
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * largest)
            trained += 1
    assert trained > 10


def test_the_stock_path_ends_with_its_block() -> None:
    inherited = FakeQuantize.apply
    with stock_quantizers():
        assert FakeQuantize.apply is not inherited
    x, scale = torch.linspace(-2.0, 2.0, 9, requires_grad=True), torch.tensor(0.5)
    y = FakeQuantize.apply(x, scale, 0, 3, False)
    assert "apply" not in vars(FakeQuantize)
    assert type(y.grad_fn).__name__ == "FakeQuantizeBackward"


def test_passes_are_counted_in_images() -> None:
    own = network()
    with counted(own) as passes:
        own(torch.zeros(3, 3, 32, 32)).sum().backward()
        with torch.no_grad():
            own(torch.zeros(2, 3, 32, 32))
    assert (passes.forwards, passes.backwards) == (5, 3)
    own(torch.zeros(3, 3, 32, 32)).sum().backward()
    assert (passes.forwards, passes.backwards) == (5, 3)


@pytest.mark.parametrize(
    ("name", "passes"),
    # Four inner steps over three eighths of the batch.
    [(BASE, 1.0), ("QADT-R, without inner steps", 1.0), ("QADT-R, default", 1.0 + 4 * 6 / 16)],
)
def test_a_qadtr_step_has_the_passes_of_a_plain_one_and_its_inner_steps(
    name: str, passes: float
) -> None:
    run = started(ROWS[name], "resnet8", 16, size=16)
    assert passes_a_step(run, ROWS[name]) == {"forwards": passes, "backwards": passes}


def test_the_penalty_adds_the_passes_of_its_images() -> None:
    table = {"name": "qadtr", "gir_penalty": True, "penalty_images": 8, "inner_steps": 0}
    row = Row(defense=table)
    passes = passes_a_step(started(row, "resnet8", 16, size=16), row)
    # 8 of 16 images, in every second round: a forward and a backward at each of two bit-widths, and
    # a second backward of the own one's.
    assert passes == {"forwards": 1.0 + 0.5 * 2 * 8 / 16, "backwards": 1.0 + 0.5 * 3 * 8 / 16}


def test_a_ratio_is_that_of_steps_in_turn() -> None:
    rows = measure({BASE: ROWS[BASE]}, network="resnet8", batch=4, rounds=2)
    assert rows[0]["over_plain"] == {"median": 1.0, "lower_quartile": 1.0, "upper_quartile": 1.0}
    assert rows[0]["images_per_s"] > 0.0
