"""Results as plain values: a row for each, and the whole as CSV or as the terminal's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from deploy.core.files import write_to
from eval.report.flat import flat_rows, rows_as_csv


@dataclass(frozen=True, kw_only=True)
class Result:
    """One network at one bit-width against one patch set; shares are 0…1.

    Attributes:
        name, network, defense: of the network, as in the tables.
        bits: bit-width, "float" for 32; several where an attacker may choose.
        engine: the engine that ran it, such as "onnxruntime-cpu"; "torch" is fake quantization.
        patch, attack: what was pasted.
        clean, clean_n: accuracy without a patch, and its number of images.
        asr, asr_low, asr_high, asr_n: attack success rate, its 95% interval and number of images.
        robust: accuracy with the patch; None for an adaptive attack.
        noise: the rate of random pixels in place of the patch; None likewise.
        drift_points: rate in the engine minus that of fake quantization, in points, if measured.
        whitebox: the patch was made on these very weights.
    """

    name: str
    network: str
    defense: str
    bits: str
    engine: str
    patch: str
    attack: str | None
    clean: float
    clean_n: int
    asr: float
    asr_low: float
    asr_high: float
    asr_n: int
    robust: float | None = None
    noise: float | None = None
    drift_points: float | None = None
    whitebox: bool


@dataclass(frozen=True, kw_only=True)
class Results:
    """What was measured, in the order of the records.

    Attributes:
        rows: a :class:`Result` for each.
        columns: the same rows with every column of ``qadtr report --csv``.
        records: the records themselves, as in the run's ``records`` folder.
    """

    rows: tuple[Result, ...]
    columns: tuple[Mapping[str, Any], ...]
    records: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> Results:
        """From whole records."""
        flat = flat_rows(records)
        names = [one.name for one in fields(Result)]
        rows = tuple(Result(**{n: row[n] for n in names if n in row}) for row in flat)
        return cls(rows=rows, columns=tuple(flat), records=tuple(records))

    def to_csv(self, path: Path | str | None = None) -> str:
        """The columns as CSV, headings first; also written to ``path`` if one is given."""
        data = rows_as_csv(self.columns)
        if path is not None:
            write_to(Path(path), data)
        return data.decode()
