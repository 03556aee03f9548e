"""Two results compared image by image: by hand, from real reports, and as commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.files import sha256_of_bytes
from deploy.core.npz import npz_bytes
from deploy.core.outcomes import outcomes_record
from deploy.core.records import write_record
from deploy.core.share import share_of
from deploy.core.statistics import mcnemar_exact
from deploy.core.stored_zip import write_stored_zip
from deploy.core.strict_json import json_bytes, write_json
from deploy.device import comparison_beside
from deploy.device.command import main as validate
from deploy.device.compare_command import comparison_lines, main
from deploy.device.comparison import compare
from deploy.device.comparison_beside import compare_beside
from deploy.device.outcome_reading import Outcome, read_outcomes
from deploy.device.report import conclude, read_report
from deploy.validator_archive import validator_bytes
from qadtr.__main__ import main as qadtr
from tests.deploy.device.conftest import rehashed
from tests.deploy.device.dishonest import arrays_of

N = 40
IMAGES = ("noise", "test", "0" * 64)


def outcome(won: Sequence[int], **changes: Any) -> Outcome:
    success = np.isin(np.arange(N), won)
    everything = np.ones(N, np.bool_)
    facts: dict[str, Any] = {
        "model": "",
        "patch": "p",
        "patch_sha256": "a" * 64,
        "images": IMAGES,
        "indices": np.arange(100, 100 + N),
        "clean_correct": everything,
        "patched_correct": ~success,
        "eligible": everything,
        "success": success,
    }
    return Outcome(**(facts | changes))


def evaluation(wins: int, **model: Any) -> dict[str, Any]:
    """The payload of an evaluation record: the patch wins on the first images."""
    every, won = np.ones(N, np.bool_), np.arange(N) < wins
    facts = {"network": "r", "defense": "plain", "bit_width": 4, "engine": "onnxruntime"}
    return {
        "model": facts | model,
        "patch": {"name": "p", "sha256": "a" * 64},
        "images": dict(zip(("name", "split", "digest"), IMAGES, strict=True)),
        "outcomes": outcomes_record(
            np.arange(N, dtype=np.int64),
            clean_correct=every,
            patched_correct=~won,
            eligible=every,
            success=won,
        ),
    }


def test_the_images_that_changed_and_the_test_by_hand() -> None:
    found = compare([outcome([0, 1, 2])], [outcome([2, *range(10, 20)])])
    (row,) = found["patches"]
    assert row["newly_won"] == list(range(110, 120))
    assert row["no_longer_won"] == [100, 101]
    assert (row["paired"]["only_old"], row["paired"]["only_new"]) == (2, 10)
    assert row["paired"]["difference"] == pytest.approx(8 / 40)
    assert row["paired"]["p"] == mcnemar_exact(2, 10)
    assert row["paired"]["p_holm"] == pytest.approx(min(1.0, 2 * row["paired"]["p"]))
    assert row["verdict"] == "not significant"  # 0.039, twice
    assert found["worse"] == []


def test_worse_and_better_once_they_are_significant() -> None:
    many = list(range(12, 30))
    assert compare([outcome([0])], [outcome([0, *many])])["worse"] == ["ASR of p"]
    found = compare([outcome([0, *many])], [outcome([0])])
    assert (found["patches"][0]["verdict"], found["worse"]) == ("better", [])


def test_a_lost_clean_image_counts_no_longer_and_clean_accuracy_is_tested() -> None:
    right = np.arange(N) >= 15
    new = outcome([20], clean_correct=right, eligible=right)
    found = compare([outcome([3, 20])], [new])
    (row,) = found["patches"]
    assert row["paired"]["n"] == 25
    assert row["count_no_longer"] == list(range(100, 115))
    assert row["no_longer_won"] == []
    assert found["clean"][0]["newly_wrong_n"] == 15
    assert found["worse"] == ["clean accuracy"]


def test_holm_keeps_many_patches_from_a_false_alarm() -> None:
    old = [outcome([], patch=f"p{i}") for i in range(10)]
    new = [outcome(range(6) if i == 0 else [], patch=f"p{i}") for i in range(10)]
    alone = compare(old[:1], new[:1])["patches"][0]["paired"]
    among = compare(old, new)["patches"][0]["paired"]
    assert alone["p"] == among["p"] < 0.05
    assert among["p_holm"] == pytest.approx(11 * among["p"])


def test_what_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="only results on the same images"):
        compare([outcome([])], [outcome([], images=("noise", "test", "1" * 64))])
    with pytest.raises(NothingToEvaluate, match="the old result has the patches p, the new"):
        compare([outcome([])], [outcome([], patch="q", patch_sha256="b" * 64)])
    with pytest.raises(NothingToEvaluate, match="no image counts"):
        compare([outcome([])], [outcome([], eligible=np.zeros(N, np.bool_))])
    found = compare([outcome([])], [outcome([], patch_sha256="b" * 64)])
    assert found["patches"][0]["same_patch"] is False


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (None, "p is not in the new result"),
        ({"patch_file_sha256": "2" * 64}, "p is another patch"),
        ({"patch_file_sha256": None, "patch_sha256": "b" * 64}, "p is another patch"),
        ({"patch_file_sha256": None, "patch_sha256": None}, "its patch is not stated"),
        ({"images_sha256": "2" * 64}, "other images or labels"),
        ({"images_sha256": None}, "some that are not stated"),
        ({"indices": np.arange(200, 200 + N)}, f"p was not tried on {N} of the old {N} images"),
    ],
)
def test_what_the_new_result_leaves_out(changes: dict[str, Any] | None, said: str) -> None:
    facts = {"images_sha256": "1" * 64, "patch_file_sha256": "1" * 64}
    old = [outcome([1, 2, 3], **facts), outcome([4], patch="q")]
    new = [outcome([4], patch="q")]
    if changes is not None:
        new.append(outcome([1, 2, 3], **{**facts, **changes}))
    found = compare(old, new)
    assert len(found["not_measured"]) == 1
    assert said in found["not_measured"][0]
    assert found["worse"] == []


def test_a_quick_run_of_the_same_images_need_not_run_all() -> None:
    facts = {"images_sha256": "1" * 64}
    few = {"indices": np.arange(110, 120), "quick": True}
    short = {name: np.ones(10, np.bool_) for name in ("clean_correct", "eligible", "success")}
    old = [outcome([], **facts)]
    assert compare(old, [outcome([], **facts, **few, **short)])["not_measured"] == []
    assert compare(old, [outcome([], **facts, **{**few, "quick": False}, **short)])["not_measured"]
    more = outcome([], **facts, indices=np.arange(90, 90 + N))
    assert "10 of the old" in compare(old, [more])["not_measured"][0]


def test_a_weakened_or_dropped_patch_fails_the_command(
    files: dict[str, bytes], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hash of the first images stays: weakened is what comes after them."""
    words = ["old.json", "new.json", "--fail-on-worse"]
    assert validate([str(bundle), "--json", "old.json"]) == 0
    arrays = arrays_of(files["patches/patch-001.npz"])
    arrays["positions"][16:] = 0
    arrays["patch"] = np.repeat(arrays["patch"], 240, axis=0)
    arrays["patch"][16:] = 127
    weak = dict(files)
    weak["patches/patch-001.npz"] = npz_bytes(arrays)
    about = json.loads(weak["patches/patch-001.json"]) | {"kind": "per-image"}
    about["sha256"] = sha256_of_bytes(weak["patches/patch-001.npz"])
    weak["patches/patch-001.json"] = json_bytes(about)
    write_stored_zip(bundle, rehashed(weak, lambda m: m["patches"][1].update(kind="per-image")))
    assert validate([str(bundle), "--json", "new.json"]) == 0
    capsys.readouterr()
    assert main(words) == 1
    assert "not measured as before: loud is another patch" in capsys.readouterr().out
    dropped = json.loads(Path("old.json").read_text())
    del dropped["patches"][1]
    write_json(Path("new.json"), dropped)
    assert main(words[:2]) == 0
    assert main(words) == 1
    assert "loud is not in the new result" in capsys.readouterr().out


def with_wins(report: dict[str, Any], number: int, won: int) -> dict[str, Any]:
    """The same report, had the patch won on the first ``won`` images."""
    changed: dict[str, Any] = json.loads(json.dumps(report))
    flags, every = np.arange(240) < won, np.ones(240, np.bool_)
    changed["patches"][number]["outcomes"] = outcomes_record(
        np.arange(240, dtype=np.int64),
        clean_correct=every,
        patched_correct=~flags,
        eligible=every,
        success=flags,
    )
    return changed


def test_reports_as_commands(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate([str(bundle), "--json", "old.json"]) == 0
    assert validate([str(bundle), "--quick", "--json", "quick.json"]) == 0
    (quiet, loud), (quick, _) = read_outcomes(Path("old.json")), read_outcomes(Path("quick.json"))
    assert (quiet.patch, len(quiet.indices), len(quick.indices)) == ("quiet", 240, 64)
    assert loud.success.sum() > 0
    capsys.readouterr()
    assert main(["old.json", "quick.json", "--fail-on-worse"]) == 0
    assert "significantly worse at 0.05 (McNemar, Holm): nothing" in capsys.readouterr().out
    write_json(Path("new.json"), with_wins(json.loads(Path("old.json").read_text()), 0, 60))
    assert main(["old.json", "new.json"]) == 0
    assert main(["old.json", "new.json", "--fail-on-worse", "--json", "c.json"]) == 1
    assert "newly won" in capsys.readouterr().out
    assert json.loads(Path("c.json").read_text())["worse"] == ["ASR of quiet"]
    assert qadtr(["compare", "old.json", "new.json", "--fail-on-worse"]) == 1
    assert qadtr(["compare", "new.json", "old.json", "--fail-on-worse"]) == 0
    # Figures of an engine that does not compute what the lab measured are not figures.
    broken = json.loads(Path("old.json").read_text())
    conclude(broken, 2, "the logits are not those of the lab")
    write_json(Path("broken.json"), broken)
    for words in (["broken.json", "new.json"], ["old.json", "broken.json"]):
        capsys.readouterr()
        assert main([*words, "--fail-on-worse"]) == 2
        assert "was aborted" in capsys.readouterr().err


VERSION_1 = Path(__file__).parent / "validation-report-1.json"
"""Written by the validator when shares had other names, of the bundle of these tests."""


def test_a_report_of_version_1_is_read_as_todays(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--search", "--queries", "60", "--search-size", "5", "--search-images", "40"]
    assert validate([str(bundle), *options]) == 0
    old, new = read_report(VERSION_1), read_report(Path("report.json"))
    assert (old["format_version"], new["format_version"]) == (2, 2)
    for before, after in zip(
        (old["clean"], *old["patches"]), (new["clean"], *new["patches"]), strict=True
    ):
        assert before.items() <= after.items()  # what is new is beside it
    assert old["search"].keys() == new["search"].keys()
    gates = [[(one["name"], one["outcome"]) for one in report["checks"]] for report in (old, new)]
    assert gates[1] == [*gates[0], ("classes predicted", "pass")]
    capsys.readouterr()
    assert main([str(VERSION_1), "report.json", "--fail-on-worse"]) == 0
    said = capsys.readouterr().out
    (row,) = [line for line in said.splitlines() if line.startswith("ASR of quiet")]
    assert row.count("1.67% [0.65%, 4.21%] of 240") == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 3}, "format version '3', but this qadtr reads 1 and 2"),
        ({"format_version": True}, "format version 'True'"),
        ({"search": {"asr": 1}}, "not a complete report"),
        ({"clean": {"here": {"accuracy": 1, "n": 1, "correct": 1, "interval": [1]}}}, "not a"),
        ({"format": "other"}, "is not a report.json"),
    ],
)
def test_a_report_that_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {**json.loads(VERSION_1.read_text()), **change})
    with pytest.raises(InputError, match=words):
        read_report(path)


def test_the_archive_compares_where_numpy_is_alone(bundle: Path) -> None:
    assert validate([str(bundle), "--json", "old.json"]) == 0
    Path("validate.pyz").write_bytes(validator_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "qadtr_device.compare_command", "old.json", "old.json"],
        env={**os.environ, "PYTHONPATH": "validate.pyz"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing" in done.stdout


def test_a_report_hands_on_what_its_bundle_says_of_the_attacks(
    files: dict[str, bytes], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate([str(bundle), "--json", "old.json"]) == 0
    facts = {"tripped": ["doubled-steps"], "words": "TRIPPED: doubled-steps; 14 passed"}
    write_stored_zip(bundle, rehashed(files, lambda m: m.update(attack_checks=facts)))
    assert validate([str(bundle), "--json", "new.json"]) == 0
    capsys.readouterr()
    assert main(["old.json", "new.json"]) == 0
    said = capsys.readouterr().out
    head, _, first = said.splitlines()[:3]
    assert first.count("†") == 1
    assert head.index("new") < first.index("†") < head.index("difference")  # of the new one alone
    assert (
        "attack checks: old result not checked -> new result TRIPPED: doubled-steps; 14 pass"
        in said
    )
    assert LOWER_BOUND in said


def test_records_of_an_evaluation(tmp_path: Path) -> None:
    for folder, wins in (("old", 2), ("new", 30)):
        payload = evaluation(wins)
        write_record(tmp_path / folder, "evaluation", payload, {})
    assert main([str(tmp_path / "old"), str(tmp_path / "new"), "--fail-on-worse"]) == 1
    (one,) = (tmp_path / "new").iterdir()
    assert main([str(tmp_path / "old"), str(one)]) == 0


def test_a_folder_of_two_trainings_of_one_network_is_refused_and_a_run_trained_again_is_not(
    tmp_path: Path,
) -> None:
    for wins, checkpoint in ((2, "1" * 64), (30, "2" * 64)):
        payload = evaluation(wins, checkpoint_sha256=checkpoint)
        write_record(tmp_path / "run" / "records", "evaluation", payload, {})
    with pytest.raises(InputError, match=r"several trainings of r plain .*111111111111…"):
        read_outcomes(tmp_path / "run" / "records")
    (newest,) = read_outcomes(tmp_path / "run")
    assert newest.success.sum() in (2, 30)


WIDE = {"bit_width": 8, "engine": "e", "model": "r qat 8-bit e"}
NARROW = {"bit_width": 4, "engine": "e", "model": "r qat 4-bit e"}


def of(defense: str, facts: dict[str, Any]) -> dict[str, Any]:
    return facts | {"model": facts["model"].replace("qat", defense)}


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("outcomes", "n"), 2**40, "as many images as flags"),
        (("outcomes", "n"), True, "as many images as flags"),
        (("outcomes", "n"), 2**63, "as many images as flags"),
        (("outcomes", "first_index"), 2**63, "indices as 0…"),
        (("outcomes", "first_index"), -1, "indices as 0…"),
        (("outcomes", "indices"), [2**63] * N, "indices as 0…"),
        (("outcomes", "indices"), [0.5] * N, "as whole numbers"),
        (("outcomes", "indices"), {}, "as whole numbers"),
        (("outcomes", "success"), 7, "value of another type"),
        (("patch", "sha256"), {}, "SHA-256 of a patch as str or NoneType, got dict"),
        (("patch", "name"), [], "name of a patch, data set or split as str, got list"),
        (("images", "digest"), {}, "name of a patch, data set or split as str, got dict"),
        (("model", "bit_width"), "2", "bit-width as int or NoneType, got str"),
        (("model", "engine"), {}, "engine as str, got dict"),
        (("model",), [], "value of another type"),
    ],
)
def test_a_record_with_a_value_of_another_kind_is_one_error(
    place: tuple[str, ...], value: Any, said: str, tmp_path: Path
) -> None:
    flags = "00" * -(-N // 8)
    payload = {
        "model": {"network": "n", "defense": "d", "bit_width": 2, "engine": "e"},
        "patch": {"name": "p", "sha256": "a" * 64},
        "images": {"name": "noise", "split": "test", "digest": "d" * 64},
        "outcomes": {
            **dict.fromkeys(("clean_correct", "patched_correct", "eligible", "success"), flags),
            "n": N,
            "first_index": 0,
            "indices": None,
        },
    }
    assert len(read_outcomes(write_record(tmp_path / "whole", "evaluation", payload, {}))) == 1
    holder: Any = payload
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    path = write_record(tmp_path / "broken", "evaluation", payload, {})
    with pytest.raises(InputError, match=re.escape(said)):
        read_outcomes(path)


def test_models_of_other_names_are_paired_by_bit_width_and_patches_by_content() -> None:
    old = [outcome([0], **WIDE), outcome([1], **NARROW)]
    new = [outcome([2], **of("qadtr", NARROW)), outcome([3], patch="q", **of("qadtr", WIDE))]
    found = compare(old, new)
    assert [(row["bit_width_old"], row["bit_width_new"]) for row in found["patches"]] == [
        (8, 8),
        (4, 4),
    ]
    assert found["patches"][0]["patch_new"] == "q"
    assert found["patches"][0]["same_patch"] is True
    assert found["not_measured"] == found["only_in_old"] == found["only_in_new"] == []
    text = "\n".join(comparison_lines(found))
    assert "r qat 8-bit e -> r qadtr 8-bit e" in text
    assert "ASR of p (named q in the new result)" in text
    assert "ASR of p (another" not in text


def test_a_patch_of_one_model_is_not_compared_with_another_models() -> None:
    old = [outcome([0], **WIDE), outcome([1], patch="q", patch_sha256="b" * 64, **WIDE)]
    new = [outcome([0], **WIDE), outcome([], patch="q", patch_sha256="b" * 64, **of("z", WIDE))]
    narrow = outcome([2], **NARROW)
    found = compare([*old, narrow], [*new, narrow])
    assert {row["patch"] for row in found["patches"]} == {"p"}
    assert found["not_measured"] == ["q on r qat 8-bit e is not in the new result"]


def test_patches_made_anew_for_each_network_are_paired_by_their_name() -> None:
    old = [outcome([0], patch_sha256="1" * 64, **WIDE), outcome([0], patch="x", **NARROW)]
    new = [
        outcome([0], patch_sha256="2" * 64, **of("qadtr", WIDE)),
        outcome([0], patch="x", **of("qadtr", NARROW)),
    ]
    found = compare(old, new)
    assert [row["same_patch"] for row in found["patches"]] == [False, True]
    assert "p (another patch of that name)" in "\n".join(comparison_lines(found))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            [WIDE, WIDE | {"patch": "q"}],
            [NARROW, NARROW | {"model": "s"}],
            "is for bit-width 8, the",
        ),
        (
            [of("a", WIDE), of("b", WIDE)],
            [of("c", WIDE), of("d", WIDE)],
            r"\(old: r a 8-bit e, r b 8-bit e; new: r c 8-bit e, r d 8-bit e\); give the folder",
        ),
    ],
)
def test_no_patch_in_common_names_the_true_difference(
    old: list[dict[str, Any]], new: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(NothingToEvaluate, match=said) as refused:
        compare([outcome([], **facts) for facts in old], [outcome([], **facts) for facts in new])
    assert "the patches" not in str(refused.value)


def test_the_newest_of_several_results_or_a_named_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, date, wins in (("old", "1", 0), ("new", "1", 30), ("new", "2", 1)):
        payload = evaluation(wins)
        path = write_record(tmp_path / folder, "evaluation", payload, {"date": date})
        if wins == 30:
            first = path
    words = [str(tmp_path / "old"), str(tmp_path / "new"), "--fail-on-worse"]
    assert main(words) == 0
    assert "0.00% [0.00%, 8.76%] of 40" in capsys.readouterr().out
    assert main([words[0], str(first), words[2]]) == 1


def test_exit_codes_of_what_cannot_be_read(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(Path("other.json"), {"format": "something"})
    bundle.write_bytes(b"broken")
    assert validate([str(bundle), "--json", "broken.json"]) == 2
    capsys.readouterr()
    assert main(["missing.json", "missing.json"]) == 2
    assert main(["other.json", "other.json"]) == 2
    assert main(["broken.json", "broken.json"]) == 3
    assert main(["other.json", "other.json", "--level", "2"]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 4
    with pytest.raises(SystemExit, match="4"):
        main(["other.json"])


def share(k: int, n: int) -> dict[str, Any]:
    return share_of(np.arange(n) < k)  # type: ignore[return-value]


def beside(
    won: int = 10, n: int = 50, certified: int = 40, in_float: int = 0, **search: Any
) -> dict[str, Any]:
    settings = {"size_px": 5, "queries": 100, "answers": "logits", "location": "random"}
    facts: dict[str, Any] = {
        "search": {**settings, "target": None, "asr": share(won, n), **search},
        "certification": {"patch_px": 3, "certified": share(certified, n)},
    }
    return facts | ({"in_float": {"convolution": in_float}} if in_float else {})


@pytest.mark.parametrize(
    ("new", "worse", "not_measured"),
    [
        (beside(), [], []),
        (beside(won=18), [], []),
        (beside(won=30), ["ASR of the search: 20.0% [11.2%, 33.0%] of 50 -> 60.0%"], []),
        (beside(certified=20), ["certified accuracy: 80.0%"], []),
        (beside(in_float=3), ["integers: 3 layers run in float, before none did"], []),
        ({}, [], ["the search for patches is not", "the certified accuracy is not"]),
        (beside(queries=99), [], ["the search had 100 queries, now it has 99"]),
        (beside(queries=101), [], []),
        (beside(size_px=4), [], ["the search had size_px 5, now it has 4"]),
        (beside(answers="classes"), [], ["the search had answers logits, now it has classes"]),
        (
            beside(n=44, won=9, certified=36),
            [],
            [
                "the search was on 50 images, now on 44",
                "the certificate was on 50 images, now on 44",
            ],
        ),
        (beside(n=45, won=9, certified=36), [], []),
    ],
)
def test_searches_and_certificates_are_compared_too(
    new: dict[str, Any],
    worse: list[str],
    not_measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparison_beside, "_report", lambda path: {"a": beside(), "b": new}[path])
    found = compare_beside("a", "b")  # type: ignore[arg-type]
    for lines, wanted in ((found.worse, worse), (found.not_measured, not_measured)):
        assert len(lines) == len(wanted)
        assert all(line.startswith(start) for line, start in zip(lines, wanted, strict=True)), lines


def test_a_search_that_is_left_out_fails_the_command(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--search", "--queries", "10", "--search-images", "10", "--certified", "2"]
    assert validate([str(bundle), *words, "--certify-images", "5", "--json", "old.json"]) == 0
    assert validate([str(bundle), "--json", "new.json"]) == 0
    assert main(["--fail-on-worse", "old.json", "old.json"]) == 0
    assert main(["--fail-on-worse", "new.json", "old.json"]) == 0
    capsys.readouterr()
    assert main(["--fail-on-worse", "old.json", "new.json"]) == 1
    said = capsys.readouterr().out
    assert "not measured as before: the search for patches is not in the new result" in said
    assert "not measured as before: the certified accuracy is not in the new result" in said
