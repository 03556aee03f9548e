"""What a manager reads: the worst patch at the lowest bit-width, its price, and what was proven."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.bit_widths import bits_words
from deploy.core.html import Html, join, tag
from deploy.core.share import Share
from eval.measure.adaptive.adaptive_record import AdaptiveRecord
from eval.measure.proofs import Proofs
from eval.report.document import note, small
from eval.report.rows import SAME, PatchColumn, PatchResult, ResultTable, Row, keys
from eval.report.words import PLAIN, interval, percent, points, size_ratio


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A plain model, a defended one (if any), and the patch that does most harm to the plain."""

    plain: Row
    defended: Row | None
    column: PatchColumn

    def of(self, row: Row) -> PatchResult:
        """What the patch did to one of the two."""
        return row.cells[self.column.key]


def summary(
    tables: Sequence[ResultTable], proofs: Proofs, adaptive: Sequence[AdaptiveRecord] = ()
) -> Html:
    """Tiles and sentences, computed from the tables; nothing is said that was not measured.

    Args:
        adaptive: what attackers who know a network achieve, oldest first.
    """
    table = max(tables, key=lambda t: (t.split == "test", len(t.rows)))
    case = _case(table)
    parts: list[Html] = []
    if case is None:
        parts.append(_without_baseline(table))
    else:
        known = None if case.defended is None else _knowing(case.defended, table, adaptive)
        parts += [_tiles(case, known, table, proofs), *_sentences(case, known, table)]
    parts += _proofs(table, proofs)
    if any(cell.mark for row in table.rows for cell in row.cells.values()):
        parts.append(note(f"{LOWER_BOUND} Which one is told under “Attack checks”."))
    if table.split != "test":
        parts.append(
            note(
                f"These figures are from the {table.split} split, on which settings may have been "
                "chosen: they are no final results."
            )
        )
    return join(parts)


def _case(table: ResultTable) -> _Case | None:
    """Lowest bit-width of a plain network, preferably one that has a defended counterpart."""
    options = []
    for plain in table.rows:
        if plain.model["defense"] not in PLAIN or not plain.cells:
            continue
        twins = [
            row
            for row in table.rows
            if row.comparability in ("comparable", "not comparable")
            and row.cells
            and keys(row.model, *SAME) == keys(plain.model, *SAME)
        ]
        # White-box patches differ from model to model, so they make no pair.
        columns = [c for c in table.columns if c.key in plain.cells]
        transferred = [c for c in columns if not plain.cells[c.key].whitebox]
        partners: list[Row | None] = [*twins] or [None]
        for twin in partners:
            shared = [c for c in transferred if twin is None or c.key in twin.cells]
            if not shared:
                continue
            worst = max(shared, key=lambda c: plain.cells[c.key].asr["value"])
            options.append(_Case(plain=plain, defended=twin, column=worst))
    if not options:
        return None
    return min(
        options,
        key=lambda case: (
            case.defended is None,
            case.plain.model["engine"] == "torch",
            case.plain.model["bit_width"],
            case.defended is not None and case.defended.comparability == "not comparable",
            0.0 if case.defended is None else case.defended.cells[case.column.key].asr["value"],
        ),
    )


def _tiles(case: _Case, known: _Knowing | None, table: ResultTable, proofs: Proofs) -> Html:
    where, plain, defended = case.plain.at, case.of(case.plain), case.defended
    tiles = [(plain.rate, f"fooled, plain, {where}", interval(plain.asr))]
    if defended is not None:
        cell, under = case.of(defended), defended.points_under_plain
        tiles.append((cell.rate, f"fooled, hardened, {where}", interval(cell.asr)))
        if known is not None:
            who = f"fooled, hardened, by one who knows it, {bits_words(known.bit_width)}"
            tiles.append((known.rate, who, interval(known.asr)))
        if under is not None:
            apart = defended.comparability == "not comparable"
            how = "; too far apart to compare" if apart else ", hardened against plain"
            words = f"points of clean accuracy{how}"
            tiles.append((points(-under), words, percent(defended.clean["value"])))
    if case.plain.size_ratio is not None:
        tiles.append((size_ratio(case.plain.size_ratio), f"of the float file's size, {where}", ""))
    certified = [proofs.certified(row.model) for row in _quantized(table)]
    found = [integer for integer in certified if integer is not None]
    if found:
        without = len(certified) - len(found)
        rest = f"{without} more without a certificate" if without else "every quantized model"
        tiles.append((f"{sum(found)} of {len(found)}", "certified models run all-integer", rest))
    return tag("ul", [_tile(*words) for words in tiles], class_="tiles")


def _tile(value: str, what: str, detail: str) -> Html:
    return tag(
        "li",
        tag("span", value, class_="value"),
        tag("span", what, class_="what"),
        small(detail, "span") if detail else "",
    )


def _sentences(case: _Case, known: _Knowing | None, table: ResultTable) -> Iterator[Html]:
    plain, column, defended = case.of(case.plain), case.column, case.defended
    target = column.facts["target"]
    does = "wrong"
    if target is not None:
        does = f"answer “{table.classes[target] if target < len(table.classes) else target}”"
    said = (
        f"The patch that harms most ({column.title}; {column.detail}) makes {case.plain.label} "
        f"{does} on {plain.rate} of the images that it otherwise gets right ({case.plain.at}; "
        f"95% interval {interval(plain.asr)}). "
        f"Random pixels in its place: {percent(plain.floor['value'])}. "
    )
    overlap = "The intervals of the two overlap: more than noise is not shown."
    yield tag("p", said, "" if plain.above_floor else overlap)
    if defended is None:
        yield tag("p", "No hardened network was measured beside it.")
        return
    cell, under = case.of(defended), defended.points_under_plain
    yield tag(
        "p",
        f"On the hardened network ({defended.label}) the same patch succeeds on "
        f"{cell.rate} ({interval(cell.asr)}). {_difference(plain.asr, cell.asr)}",
    )
    yield note(_knowing_attacker(known))
    if defended.comparability == "not comparable" and under is not None:
        yield note(
            f"The hardened network's clean accuracy is {under:.1f} points under the plain one: "
            "more than the 2 points up to which rows are compared. Its attack success rate "
            "is shown, but is no evidence for the defense."
        )


@dataclass(frozen=True, kw_only=True)
class _Knowing:
    """The most that was achieved by a patch made on the hardened network itself."""

    asr: Share
    bit_width: int
    where: str
    mark: str

    @property
    def rate(self) -> str:
        """In per cent, marked where a check of the attacks tripped."""
        return f"{percent(self.asr['value'])}{self.mark}"


def _knowing(
    defended: Row, table: ResultTable, adaptive: Sequence[AdaptiveRecord]
) -> _Knowing | None:
    """The worst known at its bit-width, over every file of the network and the adaptive attack; at
    another bit-width where none was tried at its own."""
    checkpoint = defended.model["checkpoint_sha256"]
    found = [
        _Knowing(asr=cell.asr, bit_width=row.model["bit_width"], where=row.at, mark=cell.mark)
        for row in table.rows
        if row.model["checkpoint_sha256"] == checkpoint
        for cell in row.cells.values()
        if cell.whitebox
    ]
    for record in adaptive:
        model, images = record["model"], record["images"]
        same = model["checkpoint_sha256"] == checkpoint and images["digest"] == table.digest
        if same and record["law"] == "fixed":
            bits = model["bit_widths"][0]
            where = f"{bits_words(bits)}, fake-quantized"
            marks = {known.mark for known in found if known.bit_width == bits}
            mark = max(marks, default="")
            found.append(_Knowing(asr=record["asr"], bit_width=bits, where=where, mark=mark))
    own = [known for known in found if known.bit_width == defended.model["bit_width"]]
    return max(own or found, key=lambda known: known.asr["value"], default=None)


def _knowing_attacker(known: _Knowing | None) -> str:
    """What an attacker who has the hardened network itself achieves: never left unsaid."""
    if known is None:
        return (
            "No patch made on the hardened network itself was tried. A defense that disturbs "
            "gradients counts only against an attacker who knows it."
        )
    return (
        "An attacker who has the hardened network itself succeeds on "
        f"{known.rate} ({interval(known.asr)}; {known.where}): resisting "
        "transferred patches is not resisting that one."
    )


def _difference(plain: Share, defended: Share) -> str:
    if defended["high"] < plain["low"]:
        return "The intervals do not overlap: the hardened network resists it better."
    if defended["low"] > plain["high"]:
        return "The intervals do not overlap: the hardened network is fooled more often."
    return "The intervals overlap: these images do not show a difference."


def _proofs(table: ResultTable, proofs: Proofs) -> list[Html]:
    quantized, sentences = _quantized(table), []
    compared = [proofs.parity_ok(row.model) for row in quantized]
    known = [ok for ok in compared if ok is not None]
    if known:
        rest = "" if len(known) == len(compared) else ", the others were not compared"
        sentences.append(
            f"{sum(known)} of {len(known)} integer models give exactly the codes and logits of the "
            f"numpy reference{rest}."
        )
    drifts = [
        abs(cell.drift_points)
        for row in quantized
        for cell in row.cells.values()
        if cell.drift_points is not None
    ]
    if drifts:
        sentences.append(
            f"Between engine and fake-quantized network the attack success rate moves by at most "
            f"{max(drifts):.1f} points."
        )
    return [tag("p", " ".join(sentences))] if sentences else []


def _quantized(table: ResultTable) -> list[Row]:
    return [row for row in table.rows if not row.is_float and row.model["file_sha256"] is not None]


def _without_baseline(table: ResultTable) -> Html:
    tried = [(row, c) for row in table.rows for c in table.columns if c.key in row.cells]
    row, column = max(tried, key=lambda pair: pair[0].cells[pair[1].key].asr["value"])
    cell = row.cells[column.key]
    return tag(
        "p",
        f"The highest attack success rate: {column.title} against {row.label} ({row.at}), "
        f"{cell.rate} ({interval(cell.asr)}). No plain network with a transferred "
        "patch is among the records, so nothing is compared.",
    )
