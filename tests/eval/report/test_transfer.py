"""Transfer matrices: no cell replaces one of another attack or of another source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eval.attacks.gap import Gap
from eval.attacks.lavan import Lavan
from eval.measure.checks.checks_record import attack_checks_from_records
from eval.report.names import names_of_models
from eval.report.transfer import Matrix, heat_maps, matrices_of, matrix_text

Record = dict[str, Any]
MakeRecord = Callable[..., Record]
Make = Callable[..., list[Any]]

WORDS = "lavan per-image 8×8 px, 6.2% of the image, untargeted, placed fixed"
CHECKS = attack_checks_from_records([])


@pytest.fixture
def cells(evaluation: MakeRecord) -> Make:
    """A maker of the evaluations of one attack: every source on two targets."""

    def make(asr: int = 40, *, sources: str = "ab", bits: int = 32, **settings: Any) -> list[Any]:
        made = []
        for source in sources:
            for defense in ("qat", "qadtr"):
                payload = evaluation(
                    defense=defense, asr=asr, source_checkpoint=source * 64, patch=f"{source}{asr}"
                )["payload"]
                patch = payload["patch"]
                patch["settings"] = {"size_px": 8, "bit_widths": [bits], **settings}
                patch["source"] |= {"seed": ord(source), "bit_widths": [bits]}
                made.append(payload)
        return made

    return make


def matrices(records: list[Any]) -> tuple[Matrix, ...]:
    return matrices_of(records, CHECKS, names_of_models(one["model"] for one in records))


def titles(records: list[Any]) -> list[str]:
    return [matrix.title for matrix in matrices(records)]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"steps": 50}, {"steps": 400}, ["steps=50", "steps=400"]),
        ({}, {"loss": "cross-entropy"}, ["loss=margin", "loss=cross-entropy"]),
        ({}, {"mask_px": 12}, ["mask_px=0", "mask_px=12"]),
        ({}, {"restarts": 2, "steps": 9}, ["steps=100, restarts=1", "steps=9, restarts=2"]),
    ],
)
def test_attacks_that_differ_in_any_setting_have_a_matrix_each(
    cells: Make, one: Record, other: Record, said: list[str]
) -> None:
    records = [*cells(40, **one), *cells(70, **other)]
    first, second = matrices(records)
    assert [first.title, second.title] == [f"{WORDS}, {words}" for words in said]
    assert [{cell.rate for cell in m.cells.values()} for m in (first, second)] == [
        {"40.0%"},
        {"70.0%"},
    ]
    text = matrix_text(records, CHECKS)
    assert text.count("40.0% (") == text.count("70.0% (") == 4
    maps = heat_maps([first, second])
    assert maps.count('class="heat"') == 2
    assert maps.count("<strong>40.0%</strong>") == maps.count("<strong>70.0%</strong>") == 4


def test_the_seed_of_an_attack_is_one_of_its_settings(cells: Make) -> None:
    again = cells(70)
    for one in again:
        one["patch"]["seed"] = 5
    assert titles([*cells(40), *again]) == [f"{WORDS}, seed=0", f"{WORDS}, seed=5"]


def test_size_place_and_bit_widths_are_said_already(cells: Make) -> None:
    # Of one attack at two bit-widths: four sources, one matrix.
    (matrix,) = matrices([*cells(40, bits=32), *cells(70, bits=2)])
    assert matrix.title == WORDS
    assert len(matrix.sources) == 4
    assert len(matrix.cells) == 8
    small = cells(70, placement="centre")
    for one in small:
        one["patch"] |= {"size_px": [6, 6], "placement": "centre"}
        one["patch"]["settings"]["size_px"] = 6
    assert titles([*cells(40), *small]) == [
        WORDS,
        WORDS.replace("8×8", "6×6").replace("fixed", "centre"),
    ]


def test_a_newer_record_replaces_an_older_one_of_the_same_cell(cells: Make) -> None:
    # A setting that is newer than the older record has its default there.
    assert {"steps": 100, "mask_px": 0}.items() <= Lavan.settings_type().as_record().items()
    (matrix,) = matrices([*cells(40), *cells(70, steps=100, mask_px=0)])
    assert {cell.rate for cell in matrix.cells.values()} == {"70.0%"}
    assert matrix.title == WORDS


def test_other_attacks_do_not_lengthen_a_title(cells: Make) -> None:
    other = cells(70, **Gap.settings_type(steps=3).as_record())
    for one in other:
        one["patch"] |= {"attack": "gap", "kind": "universal"}
    assert titles([*cells(40), *other])[0] == WORDS


def test_sources_that_read_the_same_are_told_apart_by_their_checkpoint(cells: Make) -> None:
    records = [*cells(40, sources="a"), *cells(70, sources="b"), *cells(10, sources="c")]
    for one in records[:4]:
        one["patch"]["source"]["seed"] = 1
    (matrix,) = matrices(records)
    assert matrix.sources == (
        "resnet8 seed 1, float #aaaaaa",
        "resnet8 seed 1, float #bbbbbb",
        "resnet8 seed 99, float",
    )
    rates = [[cell.rate for (s, _), cell in matrix.cells.items() if s == source]
             for source in matrix.sources]  # fmt: skip
    assert rates == [["40.0%"] * 2, ["70.0%"] * 2, ["10.0%"] * 2]
    text = matrix_text(records, CHECKS)
    assert text.count("#aaaaaa") == text.count("#bbbbbb") == 2
    assert "#" not in matrix_text(cells(40), CHECKS)


def test_supplied_patches_of_one_name_are_told_apart_by_their_content(cells: Make) -> None:
    records = [*cells(40, sources="a"), *cells(70, sources="b")]
    for one in records:
        patch = one["patch"]
        patch |= {"attack": None, "name": "logo", "settings": {}}
        patch["source"] = dict.fromkeys(patch["source"])
    (matrix,) = matrices(records)
    assert matrix.sources == tuple(
        f"supplied: logo #{records[i]['patch']['sha256'][:6]}" for i in (0, 2)
    )
    assert len(matrix.cells) == 4
