"""Pixel attacks as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.share import Share
from eval.measure.checks.checks_record import AttackChecks
from eval.measure.pixel_record import PixelRecord


def pixel_table(records: Sequence[PixelRecord], checks: AttackChecks) -> str:
    """The records as lines of text: accuracy against bit-width, clean and attacked.

    A rate of a network whose attack checks tripped at the bit-width that the attack followed, or at
    the one that was attacked, is marked.
    """
    width = max(11, *(len(record["attack"]) for record in records))
    header = (
        f"{'attack':<{width}} {'made at':>7} {'bits':>5} {'engine':<16} {'n':>5}  "
        f"{'clean':>6}  {'attacked (95%)':<24} ASR (95%)"
    )
    lines, marked = [header], False
    for record in records:
        robust, asr, model = record["robust_accuracy"], record["asr"], record["model"]
        mark = checks.mark_at(
            model["checkpoint_sha256"], model["bit_width"], record["made_at_bit_width"]
        )
        marked |= bool(mark)
        lines.append(
            f"{record['attack']:<{width}} {record['made_at_bit_width']:>7} {model['bit_width']:>5} "
            f"{model['engine']:<16} {record['attacked']:>5}  "
            f"{record['clean_accuracy']['value']:>6.1%}  {_words(robust, mark):<24} "
            f"{_words(asr, mark)}"
        )
    return "\n".join([*lines, LOWER_BOUND] if marked else lines)


def _words(value: Share, mark: str) -> str:
    return f"{value['value']:.1%}{mark} ({value['low']:.1%}–{value['high']:.1%})"
