"""What a manager reads: the worst case over bit-widths and patches, its price, what was proven."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.core.attack_checks import LOWER_BOUND
from deploy.core.bit_widths import FLOAT, bits_label, bits_words
from deploy.core.html import Html, join, tag
from deploy.core.share import Share
from eval.measure.adaptive.adaptive_record import AdaptiveRecord
from eval.measure.proofs import Proofs
from eval.report.attacks import adaptive_attacks
from eval.report.document import note, small
from eval.report.rows import PatchColumn, PatchResult, ResultTable, Row, keys
from eval.report.words import PLAIN, interval, percent, points, size_ratio


@dataclass(frozen=True, kw_only=True)
class _Worst:
    """The highest attack success rate of a network, over bit-widths and patches, and where."""

    row: Row
    column: PatchColumn

    @property
    def cell(self) -> PatchResult:
        """What the patch did there."""
        return self.row.cells[self.column.key]


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A plain network and a defended one (if any) under the same patches at the same bit-widths.

    Attributes:
        plain, defended: the worst case of each.
        tried: bit-widths and patches that both were tried at.
        rows: of the defended network, at those bit-widths; of the plain one where there is none.
    """

    plain: _Worst
    defended: _Worst | None
    tried: tuple[tuple[int, str], ...]
    rows: tuple[Row, ...]

    @property
    def bit_widths(self) -> list[int]:
        """Those that the worst case is over, widest first."""
        return sorted({bits for bits, _ in self.tried}, reverse=True)

    @property
    def patches(self) -> int:
        """How many the worst case is over."""
        return len({key for _, key in self.tried})

    @property
    def apart(self) -> list[Row]:
        """The defended rows that gave up too much clean accuracy to be compared."""
        return [row for row in self.rows if row.comparability == "not comparable"]


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
        known = None if case.defended is None else _knowing(case.defended.row, table, adaptive)
        parts += [_tiles(case, known, table, proofs), *_sentences(case, known, table)]
    parts += _proofs(table, proofs)
    if any(cell.mark for row in table.rows for cell in row.cells.values()):
        parts.append(note(f"{LOWER_BOUND} The check is listed under “Attack checks”."))
    if table.split != "test":
        parts.append(
            note(
                f"These figures are from the {table.split} split, on which settings may have been "
                "chosen: they are not final results."
            )
        )
    return join(parts)


def _case(table: ResultTable) -> _Case | None:
    """The comparison that the page opens with: each network's worst case, as RobustBench ranks a
    defense, by the attack and here also the bit-width that it resists least.

    Of several defended networks the one that resists least is taken, among those that are
    comparable at all bit-widths where there are any; of several plain ones the one that resists
    most. So neither a bit-width, nor a patch, nor a twin is chosen for looking well.
    """
    options = []
    networks = _networks(table.rows)
    for plain in networks:
        if plain[0].model["defense"] not in PLAIN:
            continue
        twins: list[list[Row]] = [
            twin
            for twin in networks
            if twin[0].model["defense"] not in PLAIN
            and keys(twin[0].model, "network", "engine")
            == keys(plain[0].model, "network", "engine")
        ]
        for rows in [*twins, plain]:
            # White-box patches differ from model to model, so they make no pair.
            tried = tuple(sorted(_transferred(plain, table) & _transferred(rows, table)))
            if not tried:
                continue
            options.append(
                _Case(
                    plain=_worst(plain, tried, table),
                    defended=None if rows is plain else _worst(rows, tried, table),
                    tried=tried,
                    rows=tuple(r for r in rows if r.model["bit_width"] in dict(tried)),
                )
            )
    return min(options, key=_preference, default=None)


def _preference(case: _Case) -> tuple[object, ...]:
    defended = case.defended
    return (
        defended is None,
        case.plain.row.model["engine"] == "torch",
        -len(case.bit_widths),
        bool(case.apart),
        0.0 if defended is None else -defended.cell.asr["value"],
        case.plain.cell.asr["value"],
    )


def _networks(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each network on each engine."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = tuple(keys(row.model, "checkpoint_sha256", "defense", "engine"))
        found.setdefault(key, []).append(row)
    return list(found.values())


def _transferred(rows: Sequence[Row], table: ResultTable) -> set[tuple[int, str]]:
    """Bit-width and patch of each result that is not white-box."""
    return {
        (row.model["bit_width"], column.key)
        for row in rows
        for column in table.columns
        if column.key in row.cells and not row.cells[column.key].whitebox
    }


def _worst(rows: Sequence[Row], tried: Sequence[tuple[int, str]], table: ResultTable) -> _Worst:
    cases = [
        _Worst(row=row, column=column)
        for row in rows
        for column in table.columns
        if column.key in row.cells and (row.model["bit_width"], column.key) in tried
    ]
    # Of equal rates the narrowest: that is where it is deployed.
    return max(cases, key=lambda c: (c.cell.asr["value"], -c.row.model["bit_width"]))


def _over(case: _Case) -> str:
    """The bit-widths that a worst case is over: "float, 8, 4, 2 bits"."""
    labels = ", ".join(map(bits_label, case.bit_widths))
    return labels if case.bit_widths[-1] == FLOAT else f"{labels} bits"


def _where(worst: _Worst) -> str:
    return f"{interval(worst.cell.asr)}; {worst.row.at}"


def _tiles(case: _Case, known: _Knowing | None, table: ResultTable, proofs: Proofs) -> Html:
    plain, defended = case.plain, case.defended
    over = "at the worst bit-width"
    tiles = [(plain.cell.rate, f"fooled, plain, {over}", _where(plain))]
    if defended is not None:
        cell = defended.cell
        tiles.append((cell.rate, f"fooled, hardened, {over}", _where(defended)))
        if known is not None:
            who = "fooled, hardened, by an attacker who knows it"
            tiles.append((known.rate, who, f"{interval(known.asr)}; {known.where}"))
        lost = [row for row in case.rows if row.points_under_plain is not None]
        if lost:
            most = max(lost, key=lambda row: row.points_under_plain or 0.0)
            how = "; too far apart to compare" if case.apart else ", hardened against plain"
            words = f"points of clean accuracy{how}, {over}"
            value = points(-(most.points_under_plain or 0.0))
            tiles.append((value, words, f"{percent(most.clean['value'])} at {most.at}"))
    sized = [row for row in case.rows if row.size_ratio is not None]
    if sized:
        small_row = min(sized, key=lambda row: row.model["bit_width"])
        what = f"of the float file's size, {small_row.at}"
        tiles.append((size_ratio(small_row.size_ratio), what, ""))
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
    worst, defended = case.plain, case.defended
    plain, column = worst.cell, worst.column
    target = column.facts["target"]
    does = "wrong"
    if target is not None:
        does = f"answer “{table.classes[target] if target < len(table.classes) else target}”"
    patches = (
        "one transferred patch" if case.patches == 1 else f"{case.patches} transferred patches"
    )
    said = (
        f"Worst cases over {_over(case)} and {patches}. The patch that harms most ({column.title}; "
        f"{column.detail}) makes {worst.row.label} {does} on {plain.rate} of the images that it "
        f"otherwise gets right ({worst.row.at}; 95% interval {interval(plain.asr)}). "
        f"Random pixels in its place: {percent(plain.floor['value'])}. "
    )
    overlap = "The intervals of the two overlap, so these images do not show more than noise."
    yield tag("p", said, "" if plain.above_floor else overlap)
    if defended is None:
        yield tag("p", "No hardened network was measured for comparison.")
        return
    cell = defended.cell
    same = "the same patch" if defended.column.key == column.key else defended.column.title
    yield tag(
        "p",
        f"The worst case of the hardened network ({defended.row.label}) over the same bit-widths "
        f"and patches: {same} succeeds on {cell.rate} ({interval(cell.asr)}; {defended.row.at}). "
        f"{_difference(plain.asr, cell.asr)}",
    )
    yield note(_knowing_attacker(known))
    if case.apart:
        most = max(row.points_under_plain or 0.0 for row in case.apart)
        widths = ", ".join(dict.fromkeys(bits_words(r.model["bit_width"]) for r in case.apart))
        yield note(
            f"The hardened network's clean accuracy is up to {most:.1f} points under the plain "
            f"one ({widths}). Rows are compared up to 2 points. Its attack success rate is "
            "shown, but is not evidence for the defense."
        )


@dataclass(frozen=True, kw_only=True)
class _Knowing:
    """The most that was achieved by a patch made on the hardened network itself."""

    asr: Share
    where: str
    mark: str

    @property
    def rate(self) -> str:
        """In per cent, marked where a check of the attacks tripped."""
        return f"{percent(self.asr['value'])}{self.mark}"


def _knowing(
    defended: Row, table: ResultTable, adaptive: Sequence[AdaptiveRecord]
) -> _Knowing | None:
    """The worst known, over all bit-widths and files of the network, and the adaptive attack."""
    checkpoint = defended.model["checkpoint_sha256"]
    cells = [
        (row, cell)
        for row in table.rows
        if row.model["checkpoint_sha256"] == checkpoint
        for cell in row.cells.values()
    ]
    found = [
        _Knowing(asr=cell.asr, where=row.at, mark=cell.mark) for row, cell in cells if cell.whitebox
    ]
    for record in adaptive_attacks(adaptive):
        model, images = record["model"], record["images"]
        if model["checkpoint_sha256"] == checkpoint and images["digest"] == table.digest:
            widths = sorted(model["bit_widths"], reverse=True)
            labels = ", ".join(map(bits_label, widths))
            where = (
                bits_words(widths[0])
                if record["law"] == "fixed"
                else f"{record['law']} of {labels}"
            )
            marks = {cell.mark for row, cell in cells if row.model["bit_width"] in widths}
            where = f"{where}, fake-quantized"
            found.append(_Knowing(asr=record["asr"], where=where, mark=max(marks, default="")))
    return max(found, key=lambda known: known.asr["value"], default=None)


def _knowing_attacker(known: _Knowing | None) -> str:
    """What an attacker who has the hardened network itself achieves: never left unsaid."""
    if known is None:
        return (
            "No patch made on the hardened network itself was tried. A defense that disturbs "
            "gradients counts only against an attacker who knows it."
        )
    return (
        f"An attacker who has the hardened network itself succeeds on {known.rate} "
        f"({interval(known.asr)}; {known.where}). Resistance to transferred patches is not "
        "resistance to this attacker."
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
        rest = "" if len(known) == len(compared) else "; the others were not compared"
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
        f"{cell.rate} ({interval(cell.asr)}). The records have no plain network with a "
        "transferred patch, so nothing is compared.",
    )
