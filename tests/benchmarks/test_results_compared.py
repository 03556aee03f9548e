"""Which networks the first page of the results compares, and what it says when a rival is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.results_compared import (
    NETWORK,
    PLAIN_QAT,
    QADTR,
    RIVAL,
    SQUARES,
    Results,
    compared,
    results_of,
)
from benchmarks.results_first import first_table
from benchmarks.results_page import RESULTS
from benchmarks.results_sentences import sentences
from deploy.core.share import share
from eval.report.network_figures import NetworkFigures
from eval.report.words import percent, rate


@pytest.fixture(scope="module")
def results() -> Results:
    return results_of(RESULTS)


def retold(results: Results, kind: str, digit: str, **model: Any) -> list[NetworkFigures]:
    """The figures of a network of the table as those of another."""
    return [
        replace(one, model={**one.model, "checkpoint_sha256": digit * 64, **model})
        for one in results.networks[kind].figures.values()
    ]


def right_on(part: float, figures: list[NetworkFigures]) -> list[NetworkFigures]:
    """The same with this part of the images right without a patch."""
    return [
        replace(one, clean=share(round(part * one.clean["n"]), one.clean["n"]))
        for one in figures
        if one.clean
    ]


def test_a_rival_is_a_row_and_a_sentence(results: Results) -> None:
    weak = retold(results, PLAIN_QAT, "1", defense="dwq")
    strong = retold(results, QADTR, "2", defense="pbat")
    stranger = [replace(one, transferred={}) for one in retold(results, QADTR, "3", defense="own")]
    ours = [one for one in results.every if one.model["defense"] in ("qat", "qadtr")]
    networks = compared([*ours, *weak, *strong, *stranger], NETWORK)
    labels = ["plain QAT", "QADT-R", "QADT-R, grey squares", "PBAT"]
    assert [one.label for one in networks.values()] == labels
    found = replace(results, networks=networks)
    rows = first_table(found).rows
    assert len(rows) == 5 * len(found.bit_widths)
    assert [row[1] for row in rows[:5]] == [*labels[:3], f"{labels[2]}, masked", labels[3]]
    said = sentences(found)
    assert len(said) == 10
    assert said[7].startswith("On ResNet-20 transferred patches win on up to ")
    rival = found.networks[RIVAL]
    steps = f"{rival.inner_steps} inner steps)"
    assert f"of the images of PBAT ({found.lineage(rival).epochs} epochs, {steps} and on" in said[7]


def test_a_rival_that_was_attacked_at_one_bit_width_alone_is_not_ahead(results: Results) -> None:
    rival = results.networks[RIVAL]
    weaker = retold(results, RIVAL, "6", defense="own")
    beaten = {key: replace(of, asr=share(0, of.asr["n"])) for key, of in weaker[0].adaptive.items()}
    some = [replace(weaker[0], adaptive=beaten), *(replace(one, adaptive={}) for one in weaker[1:])]
    assert compared([*some, *results.every], NETWORK)[RIVAL] == rival
    all_of_them = [replace(one, adaptive=beaten) for one in weaker]
    assert compared([*all_of_them, *results.every], NETWORK)[RIVAL].label == "own"


def test_all_that_is_compared_was_tried_under_a_patch_of_qadt_r(results: Results) -> None:
    plain = results.networks[PLAIN_QAT]
    stronger = right_on(1.0, retold(results, QADTR, "7", defense="qat"))
    others = [
        replace(one, transferred={f"other {key}": of for key, of in one.transferred.items()})
        for one in stronger
    ]
    assert compared([*others, *results.every], NETWORK)[PLAIN_QAT] == plain
    assert compared([*stronger, *results.every], NETWORK)[PLAIN_QAT] != plain


def test_masked_inference_is_a_row_whose_bound_is_that_of_its_certificates(
    results: Results,
) -> None:
    squares = results.networks[SQUARES].figures[8]
    certified = squares.certified[8]
    right, held = certified["masked"]["k"], certified["certified"]["k"]
    bound = squares.bound(8)
    assert bound is not None
    assert (bound["k"], bound["n"]) == (right - held, right)
    table = first_table(results)
    (row,) = (row for row in table.rows if row[0] == "8" and str(row[1]).endswith(", masked"))
    cells = dict(zip(map(str, table.columns), row, strict=True))
    assert cells["clean"] == rate(certified["masked"])
    assert cells["adaptive"] == f"≤ {rate(bound)}"
    # Beside what none can exceed stands the worst that was tried, made on these weights or not.
    tried = {one["patch"]["name"]: one["asr"] for one in certified["attacks"]}
    own, brought = (f"lavan-per-image-8px-random-from-{bits}bit" for bits in (8, 32))
    universal = tried["gap-universal-8px-random-from-32bit"]
    most = max(universal, tried[brought], key=lambda asr: asr["value"])
    assert cells["white-box"] == f"{rate(tried[own])}, ≤ {percent(bound['value'])}"
    assert cells["transferred"] == f"{rate(most)}, ≤ {percent(bound['value'])}"
    assert cells["latency"] == f"{certified['mean_passes']:.0f} passes"
    assert (
        f"no attack with one 8×8 patch wins on more than {percent(bound['value'])} at 8"
        in sentences(results)[6]
    )


def test_a_network_without_certificates_has_no_masked_row_and_no_bound(results: Results) -> None:
    squares = results.networks[SQUARES]
    bare = {bits: replace(one, certified={}) for bits, one in squares.figures.items()}
    assert bare[8].bound(8) is None
    networks = {**results.networks, SQUARES: replace(squares, figures=bare)}
    found = replace(results, networks=networks)
    assert not any(str(row[1]).endswith(", masked") for row in first_table(found).rows)
    assert "no attack with one" not in sentences(found)[6]


def test_plain_training_is_the_most_accurate_one_and_not_the_one_that_happens_to_resist_more(
    results: Results,
) -> None:
    plain = results.networks[PLAIN_QAT]
    resisting = retold(results, QADTR, "8", defense="qat")
    worse = right_on(0.5, resisting)
    assert compared([*worse, *results.every], NETWORK)[PLAIN_QAT] == plain
    unattacked = [replace(one, adaptive={}) for one in right_on(1.0, resisting)]
    assert compared([*unattacked, *results.every], NETWORK)[PLAIN_QAT] == plain


def test_grey_squares_are_no_plain_training(results: Results) -> None:
    run = {"name": "m", "seed": 1, "config": {"data": {"masks": 0.75}}}
    better = right_on(1.0, retold(results, QADTR, "4", defense="qat"))
    masked = [replace(one, model={**one.model, "run": run}) for one in better]
    assert compared([*masked, *results.every], NETWORK) == results.networks
    unmasked = [replace(one, model={**one.model, "run": None}) for one in better]
    networks = compared([*unmasked, *results.every], NETWORK)
    assert networks[PLAIN_QAT].figures[8] == next(one for one in unmasked if one.bit_width == 8)


def test_with_grey_squares_it_is_the_network_of_which_most_is_proven(results: Results) -> None:
    chosen = results.networks[SQUARES]
    # Attacks win less on it, and less is certified.
    weaker = [
        replace(
            one,
            adaptive={
                key: replace(of, asr=share(0, of.asr["n"])) for key, of in one.adaptive.items()
            },
            certified={
                px: {**of, "certified": share(0, of["certified"]["n"])}
                for px, of in one.certified.items()
            },
        )
        for one in retold(results, SQUARES, "5")
    ]
    assert compared([*weaker, *results.every], NETWORK)[SQUARES] == chosen
    unproven = [replace(one, certified={}) for one in weaker]
    assert compared([*unproven, *results.every], NETWORK)[SQUARES] == chosen


def test_the_worst_of_the_seeds_of_a_training_stands_for_all(results: Results) -> None:
    def seed(number: int, won: int) -> list[NetworkFigures]:
        run = results.networks[QADTR].model["run"]
        return [
            replace(
                one,
                model={**one.model, "run": {**run, "seed": number}},
                adaptive={
                    key: replace(of, asr=share(won, 100)) for key, of in one.adaptive.items()
                },
            )
            for one in retold(results, QADTR, str(number))
        ]

    others = [one for one in results.every if one.model["defense"] != "qadtr"]
    found = compared([*others, *seed(2, 40), *seed(3, 60), *seed(4, 50)], NETWORK)[QADTR]
    assert [one.seed for one in (found, *found.better)] == [3, 4, 2]
    said = sentences(replace(results, small={**results.small, QADTR: found}))[4]
    assert "60.0% of the images (the worst of 3 seeds; the best: 40.0%), and on " in said


def test_two_networks_of_one_seed_are_two_trainings(results: Results) -> None:
    others = [one for one in results.every if one.model["defense"] != "qadtr"]
    again = retold(results, QADTR, "6")
    found = compared([*others, *results.networks[QADTR].figures.values(), *again], NETWORK)[QADTR]
    assert found.better == ()
