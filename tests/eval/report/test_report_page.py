"""The page: self-contained, well-formed, escaped, reachable, and true to the records."""

from __future__ import annotations

import base64
import copy
import io
import re
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.patch_set import PatchSet, write_patch_set
from deploy.core.records import read_records, write_record
from deploy.core.share import share
from eval.measure.examples import png_bytes, write_examples
from eval.report.gallery import Picture
from eval.report.page import render_report
from eval.report.results import text_table
from eval.stages.report import write_report
from tests.eval.report.test_attack_marks import adaptive
from training.data.image_set import image_set

Record = dict[str, Any]
MakeRecord = Callable[..., Record]

RESULTS = Path(__file__).resolve().parents[3] / "results" / "cifar10-resnet8-cpu"
_VOID = {"br", "circle", "col", "img", "line", "meta", "path", "rect"}


class Page(HTMLParser):
    """Elements with their attributes and text; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _VOID
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        words = [t for name, ts in self.texts.items() if name != "style" for t in ts]
        return " ".join(" ".join(words).split())


@pytest.fixture
def page(records: list[Record]) -> Page:
    return Page(render_report(records, title="A report"))


def test_nothing_is_fetched_and_nothing_runs(records: list[Record]) -> None:
    picture = Picture(pngs=(png_bytes(np.zeros((3, 4, 4), np.uint8)),), alts=("a",), title="t")
    text = render_report(records, title="A report", pictures=[picture])
    page = Page(text)
    assert not page.all("script")
    assert not page.all("link")
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)
    for name, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), (name, key)
            if key in ("src", "href", "srcset", "action", "data"):
                assert value is not None
                assert value.startswith(("data:image/png;base64,", "#"))
    (policy,) = [m for m in page.all("meta") if m.get("http-equiv")]
    assert "default-src 'none'" in str(policy["content"])


def test_the_page_is_reachable(records: list[Record], page: Page) -> None:
    (html,) = page.all("html")
    assert html["lang"] == "en"
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert str(link["href"])[1:] in ids
    assert page.elements[page.elements.index(("body", {})) + 1][1]["class"] == "skip"
    for div in page.all("div"):
        if "scroll" in str(div.get("class")):
            assert div["tabindex"] == "0"
            assert div["aria-label"]
    charts = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(charts) == 2
    assert len(page.texts["desc"]) == 2
    assert "resnet8 plain QAT: 2 bits 46.0% (36.6–55.7)" in " ".join(page.texts["desc"])
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))


def test_light_dark_and_paper(records: list[Record]) -> None:
    style = render_report(records, title="t")
    assert "@media (prefers-color-scheme: dark)" in style
    assert "@media print" in style
    defined = set(re.findall(r"(--[a-z0-9-]+):", style))
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", style))
    assert used <= defined


def test_the_summary_says_what_the_records_say(page: Page) -> None:
    text = page.text
    # The worst over bit-widths and patches, of each network: at 2 bits both look better.
    assert "Worst cases over float, 8, 4, 2 bits and 2 transferred patches" in text
    assert "makes resnet8 plain QAT wrong on 90.0% of the images" in text
    assert (
        "over the same bit-widths and patches: the same patch succeeds on 40.0% (30.9–49.8; "
        "float, onnxruntime)"
    ) in text
    assert "up to 2.8 points under the plain one (4 bits)" in text
    assert "The intervals do not overlap: the hardened network resists it better." in text
    assert "No patch made on the hardened network itself was tried." in text
    assert "6 of 6 integer models give exactly the codes and logits" in text
    assert "moves by at most 0.2 points" in text


def test_the_summary_names_what_a_knowing_attacker_achieves(evaluation: MakeRecord) -> None:
    own = sha256(b"qadtr").hexdigest()
    records = [
        evaluation(),
        evaluation(defense="qadtr", asr=10),
        evaluation(defense="qadtr", asr=70, patch="own", source_checkpoint=own),
    ]
    text = Page(render_report(records, title="t")).text
    assert "An attacker who has the hardened network itself succeeds on 70.0%" in text
    assert "Resistance to transferred patches is not resistance to this attacker" in text
    assert "itself was tried" not in text


def test_an_adaptive_attack_is_what_a_knowing_attacker_achieves() -> None:
    records = [r for run in ("plain", "qadtr") for r in read_records(RESULTS / run / "records")]
    page = Page(render_report(records, title="t"))
    adaptive = [r["payload"] for r in records if r["kind"] == "adaptive"]
    # The most that it achieves at any bit-width, and where the bit-width is the worst per image.
    rate = max(a["asr"]["value"] for a in adaptive if a["model"]["defense"] == "qadtr")
    known = re.search(r"has the hardened network itself succeeds on ([0-9.]+)%", page.text)
    assert known is not None
    assert float(known[1]) >= round(100 * rate, 1)
    assert "fooled, hardened, by an attacker who knows it" in page.text
    assert "worst of float, 8, 5, 4, 2, fake-quantized" in page.text


def test_an_adaptive_attack_that_was_repeated_counts_once(records: list[Record]) -> None:
    old, new, steps = (adaptive("fixed", [2]) for _ in range(3))
    for record, won in ((old, 70), (new, 50), (steps, 10)):
        record["payload"]["asr"] = share(won, 80)
    steps["payload"]["settings"] = {"steps": 7}
    few = copy.deepcopy(new)
    few["payload"]["asr"], few["payload"]["outcomes"]["n"] = share(1, 3), 4
    for repeated, rate in (
        ([old], 87.5),
        ([old, new], 62.5),
        ([old, new, steps], 62.5),
        ([old, new, few], 62.5),  # the one with the most images counts, of equals the newest
    ):
        text = Page(render_report([*records, *repeated], title="t")).text
        assert f"hardened network itself succeeds on {rate}%" in text


def test_neither_a_bit_width_nor_a_twin_is_chosen_for_looking_well(
    evaluation: MakeRecord,
) -> None:
    rates = {8: (40, 35), 4: (60, 10), 2: (50, 5)}
    records = [
        evaluation(defense=defense, bits=bits, asr=asr, checkpoint=defense)
        for bits, both in rates.items()
        for defense, asr in zip(("qat", "qadtr"), both, strict=True)
    ]
    # A twin that resists more, and one that resists least but gave up its accuracy.
    records += [evaluation(defense="qadtr", bits=b, asr=1, checkpoint="twin") for b in rates]
    records += [
        evaluation(defense="qadtr", bits=b, asr=80, clean=700, checkpoint="poor") for b in rates
    ]
    text = Page(render_report(records, title="t")).text
    assert "wrong on 60.0% of the images that it otherwise gets right (4 bits" in text
    assert "succeeds on 35.0% (26.4–44.7; 8 bits, onnxruntime)" in text
    assert "fooled, hardened, at the worst bit-width" in text
    assert "26.4–44.7; 8 bits, onnxruntime" in text
    # Only the widths that both were tried at: nothing is won by trying one at fewer.
    fewer = [r for r in records if r["payload"]["model"]["defense"] == "qat"] + records[5:6]
    text = Page(render_report(fewer, title="t")).text
    assert "Worst cases over 2 bits and one transferred patch" in text


def test_a_hardened_network_that_is_too_weak_is_no_evidence(evaluation: MakeRecord) -> None:
    page = Page(
        render_report([evaluation(), evaluation(defense="qadtr", clean=800, asr=5)], title="t")
    )
    assert "is not evidence for the defense" in page.text
    assert "not comparable" in page.texts["span"]
    assert [row.get("class") for row in page.all("tr")][-1] == "first"
    assert [cell["class"] for cell in page.all("td") if "asr" in (cell.get("class") or "")] == [
        "asr",
        "asr aside",
    ]


@pytest.mark.parametrize(
    ("asr", "words"),
    [
        (44, "The intervals overlap: these images do not show a difference."),
        (90, "the hardened network is fooled more often"),
    ],
)
def test_no_difference_is_claimed_without_one(evaluation: MakeRecord, asr: int, words: str) -> None:
    page = Page(render_report([evaluation(), evaluation(defense="qadtr", asr=asr)], title="t"))
    assert words in page.text
    assert "resists it better" not in page.text


def test_an_attack_within_the_noise_is_marked(evaluation: MakeRecord) -> None:
    page = Page(render_report([evaluation(asr=4, floor=3)], title="t"))
    assert "overlaps noise" in page.texts["span"]
    assert "these images do not show more than noise" in page.text
    assert "overlaps noise" not in Page(render_report([evaluation()], title="t")).texts["span"]


def test_figures_of_the_hold_out_are_no_final_figures(evaluation: MakeRecord) -> None:
    assert "not final results" in Page(render_report([evaluation(split="holdout")], title="t")).text
    assert "not final results" not in Page(render_report([evaluation()], title="t")).text


def test_a_targeted_patch_names_its_target(evaluation: MakeRecord) -> None:
    page = Page(render_report([evaluation(target=1)], title="t"))
    assert "answer “dog” on" in page.text


def test_without_a_plain_network_nothing_is_compared(evaluation: MakeRecord) -> None:
    page = Page(render_report([evaluation(defense="qadtr")], title="t"))
    assert "so nothing is compared" in page.text
    assert "no plain row beside it" in page.text


def test_failed_certificate_and_parity_are_shown(
    evaluation: MakeRecord, certificate: MakeRecord, parity: MakeRecord
) -> None:
    digest = "qat-2-onnxruntime"
    records = [evaluation(), certificate(digest, ok=False), parity(digest, ok=False)]
    page = Page(render_report(records, title="t"))
    assert "NOT INTEGER" in page.texts["span"]
    assert "NO PARITY" in page.texts["span"]
    assert "conv9: no Q behind it" in page.texts["li"]
    assert "0 of 1" in page.text
    assert "0 of 1 integer models give exactly" in page.text
    unchecked = Page(render_report([evaluation()], title="t"))
    assert "no certificate among the records" in unchecked.text
    assert "give exactly" not in unchecked.text


def test_another_version_of_a_certificate_is_refused(
    evaluation: MakeRecord, certificate: MakeRecord
) -> None:
    record = certificate("x")
    del record["payload"]["counts"]
    with pytest.raises(InputError, match=r"kind 'certificate': the key 'counts' is missing"):
        render_report([evaluation(), record], title="t")


NASTY = "<img src=x onerror=alert(1)>\"'&amp;</title></style>"


def test_every_text_is_escaped(evaluation: MakeRecord, certificate: MakeRecord) -> None:
    clean = Page(render_report([evaluation(target=0), certificate("m")], title="t"))
    record = evaluation(
        network=NASTY,
        attack=NASTY,
        name=NASTY,
        engine=NASTY,
        split=NASTY,
        target=0,
        classes=(NASTY, "b", "c"),
    )
    record["payload"]["images"]["name"] = NASTY
    record["payload"]["patch"]["placement"] = NASTY
    record["payload"]["model"]["engine_version"] = NASTY
    provenance = dict(record["provenance"], command=[NASTY], commit=NASTY, packages={NASTY: NASTY})
    record["provenance"] = dict(provenance, config={NASTY: NASTY}, host={NASTY: NASTY})
    other = certificate("m")
    other["payload"] |= {"model": NASTY, "engine": NASTY}
    text = render_report([record, other], title=NASTY)
    page = Page(text)
    assert not page.all("img")
    # The page has the same elements as one with harmless texts, but for one record's origin more.
    assert len(page.all("title")) == len(clean.all("title"))
    assert len(page.all("style")) == 1
    assert not any(key.startswith("on") for _, a in page.elements for key in a)
    assert page.texts["h1"] == [NASTY]


def test_pictures_are_png_inside_the_page(records: list[Record]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 7), np.uint8)
    mask = np.ones((5, 7), np.bool_)
    mask[0, 0] = False
    picture = Picture(pngs=(png_bytes(image, mask),), alts=("a patch",), title="patch", detail="d")
    page = Page(render_report(records, title="t", pictures=[picture]))
    (found,) = page.all("img")
    assert found["alt"] == "a patch"
    data = base64.b64decode(str(found["src"]).removeprefix("data:image/png;base64,"))
    opened = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(opened[..., :3], image.transpose(1, 2, 0))
    assert (opened[0, 0, 3], opened[1, 1, 3]) == (0, 255)
    with pytest.raises(InputError, match="3×H×W"):
        png_bytes(image[0])


def test_a_run_folder_becomes_a_page(records: list[Record], tmp_path: Path) -> None:
    run = tmp_path / "a run"
    for record in records:
        write_record(run / "records", record["kind"], record["payload"], record["provenance"])
    rng = np.random.default_rng(0)
    images = image_set(
        rng.integers(0, 256, (9, 3, 16, 16), np.uint8),
        np.arange(9, dtype=np.int64) % 3,
        ("cat", "dog", "ship"),
        name="tiny",
        split="test",
    )
    patches = PatchSet(
        name="lavan-8",
        kind="per-image",
        patch=rng.integers(0, 256, (9, 3, 8, 8), np.uint8),
        mask=np.ones((8, 8), np.bool_),
        positions=np.full((9, 2), 4, np.int32),
        image_indices=np.arange(9)[::-1].copy(),
    )
    write_patch_set(run / "patches" / "lavan-8.npz", patches)
    write_examples(
        run / "records",
        images=images,
        patch_sets=[patches],
        models={
            "always dog": lambda x: np.ones(len(x), np.int64),
            "sees the patch": lambda x: np.where(
                (x[:, :, 4:12, 4:12] == patches.patch[: len(x)]).all((1, 2, 3)), 2, 0
            ),
        },
        provenance=records[0]["provenance"],
        count=2,
    )
    # Unfinished work of an attack, as an adaptive evaluation and an interrupted patch leave it.
    (run / "patches" / ".adaptive-0cdd47e8-1.search.npz").write_bytes(b"half of a file")
    out = write_report(run, tmp_path / "report.html")
    page = Page(out.read_text())
    assert page.texts["h1"] == ["Patch robustness: a run"]
    alts = [img["alt"] for img in page.all("img")]
    assert alts[:6] == [f"Patch lavan-8 for image {i}" for i in (8, 7, 6, 5, 4, 3)]
    assert alts[6:8] == [
        "Without the patch: image 8: ship",
        "With the patch lavan-8: image 8: ship",
    ]
    assert len(alts) == 10
    cells = page.texts["td"]
    # Image 8 is a ship, image 7 a dog; the second model says ship with the patch and else cat.
    said = {word: cells.count(word) for word in ("dog", "✗ dog", "ship", "✗ ship", "✗ cat")}
    assert said == {"dog": 2, "✗ dog": 2, "ship": 1, "✗ ship": 1, "✗ cat": 2}
    # Another run's models on the same pictures stand in the same figures.
    write_examples(
        tmp_path / "other" / "records",
        images=images,
        patch_sets=[patches],
        models={"always ship": lambda x: np.full(len(x), 2, np.int64)},
        provenance=records[0]["provenance"],
        count=2,
    )
    two = Page(write_report([run, tmp_path / "other"], tmp_path / "two.html").read_text())
    assert [img["alt"] for img in two.all("img")] == alts
    assert two.texts["th"].count("always ship") == 2
    both = Page(write_report([run, run], tmp_path / "both.html", title="Both").read_text())
    assert both.texts["h1"] == ["Both"]
    assert both.texts["td"] == page.texts["td"]  # a record that is given twice counts once
    assert text_table(read_records(run / "records")) == text_table(records)
    # A run that only made patches adds its patches; a folder of records is read as it is.
    (run / "patches").rename(tmp_path / "source")
    (tmp_path / "maker").mkdir()
    (tmp_path / "source").rename(tmp_path / "maker" / "patches")
    (tmp_path / "maker" / "checkpoint.json").write_text("{}")
    apart = write_report([tmp_path / "maker", run / "records"], tmp_path / "apart.html")
    assert [img["alt"] for img in Page(apart.read_text()).all("img")] == alts


def test_folders_that_are_no_runs(tmp_path: Path, records: list[Record]) -> None:
    with pytest.raises(InputError, match="not a folder"):
        write_report(tmp_path / "nowhere", tmp_path / "r.html")
    (tmp_path / "run" / "records").mkdir(parents=True)
    with pytest.raises(NothingToEvaluate, match="qadtr eval"):
        write_report(tmp_path / "run", tmp_path / "r.html")
    record = records[0]
    path = write_record(tmp_path / "run" / "records", "x", record["payload"], {})
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match=path.name):
        write_report(tmp_path / "run", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_examples_refuse_what_does_not_fit(tmp_path: Path) -> None:
    images = image_set(
        np.zeros((2, 3, 8, 8), np.uint8),
        np.array([0, 1]),
        ("a", "b"),
        name="tiny",
        split="test",
    )
    patches = PatchSet(
        name="p",
        kind="universal",
        patch=np.zeros((1, 3, 4, 4), np.uint8),
        mask=np.ones((4, 4), np.bool_),
        positions=np.zeros((1, 2), np.int32),
        image_indices=np.array([2]),
    )
    model = {"m": lambda x: np.full(len(x), 5)}
    arguments: dict[str, Any] = {"images": images, "models": model, "provenance": {}}
    with pytest.raises(InputError, match="is for image 2"):
        write_examples(tmp_path, patch_sets=[patches], **arguments)
    fitting = PatchSet(**{**vars(patches), "image_indices": np.array([0])})
    with pytest.raises(InputError, match=r"predicts classes \[5\]"):
        write_examples(tmp_path, patch_sets=[fitting], **arguments)
    with pytest.raises(InputError, match="at least one"):
        write_examples(tmp_path, patch_sets=[fitting], **{**arguments, "models": {}})
    assert list(tmp_path.iterdir()) == []
