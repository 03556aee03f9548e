"""All checks of one network at one bit-width, in the catalogue's order."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from eval.attacks.predictions import SwitchableNetwork
from eval.measure.checks import comparisons, passes, reach
from eval.measure.checks.attacked_network import AttackedNetwork, BatterySettings
from eval.measure.checks.checks_record import CheckResult, result

Check = Callable[[AttackedNetwork], CheckResult]


def run_battery(
    network: SwitchableNetwork,
    bits: int,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    settings: BatterySettings,
    *,
    source: SwitchableNetwork | None = None,
    undefended: SwitchableNetwork | None = None,
    only: Collection[str] | None = None,
    done: Callable[[str], None] = lambda _: None,
) -> list[CheckResult]:
    """Run every check, or those named by ``only``; the others are then *not run*.

    Args:
        images: uint8 N×3×H×W; those that the network has right are attacked.
        labels: int64 N.
        source: the network that a transferred patch is made on, at 32 bits.
        undefended: the network that the attack must break, at this bit-width if it has it.
        done: called with the name of each check behind it.

    Raises:
        NothingToEvaluate: the network has none of the images right.
    """
    attacked = AttackedNetwork(network, bits, images, labels, settings)
    results = []
    for name, check in _checks(source, undefended).items():
        asked = only is None or name in only
        results.append(check(attacked) if asked else result(name, "not run", "not asked for"))
        done(name)
    return results


def _checks(
    source: SwitchableNetwork | None, undefended: SwitchableNetwork | None
) -> dict[str, Check]:
    return {
        "gradient-reaches-patch": passes.gradient_reaches_patch,
        "zero-gradients": passes.zero_gradients,
        "logits": passes.gives_logits,
        "randomness": passes.randomness,
        "single-step": comparisons.single_step,
        "doubled-steps": comparisons.doubled_steps,
        "random-patch": comparisons.random_patch,
        "gradient-free": comparisons.gradient_free,
        "transfer": lambda attacked: comparisons.transfer(attacked, source),
        "area": comparisons.area,
        "full-image": reach.full_image,
        "loss-surface": passes.loss_surface,
        "bytes": reach.bytes_kept,
        "undefended": lambda attacked: reach.undefended(attacked, undefended),
        "planted-fakes": lambda attacked: reach.planted_fakes(attacked, undefended),
    }
