"""docs/fuzzing.md, made from the newest record in results/fuzzing.

    python -m benchmarks.fuzzing_page [--check]

`python -m tests.fuzz --seconds 900 --record results/fuzzing` makes such a record.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import TypedDict

from benchmarks.pages import keep_pages
from benchmarks.records import ROOT
from deploy.core.errors import InputError
from deploy.core.records import published_records
from deploy.core.table import Table
from training.record_types import payload_of
from training.validated import AtLeast0, AtLeast1, NotNegative, Positive

KIND = "fuzzing"
RESULTS = ROOT / "results" / KIND
PAGE = Path("docs") / "fuzzing.md"


class FuzzedReader(TypedDict):
    """What one reader did."""

    reader: str
    about: str
    """What it reads."""
    inputs: AtLeast1
    refused: AtLeast0
    """By one line that says what is wrong; the others were read."""
    seconds: NotNegative
    """Of processor time, in reading."""
    longest_s: NotNegative
    """Of processor time, for one input."""
    largest_mib: NotNegative
    """Resident memory of one input above what was there before it."""
    bound_mib: AtLeast1
    findings: AtLeast0


class FuzzingRecord(TypedDict):
    """The payload of a record of kind ``fuzzing``: every reader on damaged files."""

    readers: list[FuzzedReader]
    first_seed: AtLeast0
    clock_seconds: Positive
    """From the first input to the last."""
    bound_cpu_s: Positive
    """Of processor time, that one input may take."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or with ``--check`` say whether it is the one that the record gives."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzzing_page")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it is stale")
    arguments = parser.parse_args(argv)
    return keep_pages({PAGE: fuzzing_page(RESULTS).encode()}, check=arguments.check)


def fuzzing_page(folder: Path) -> str:
    """The page as Markdown.

    Args:
        folder: results/fuzzing; the newest record in it is shown.

    Raises:
        InputError: a record is damaged, or there is none.
    """
    records = published_records(folder, KIND)
    if not records:
        raise InputError(f"{folder} holds no record of kind {KIND}")
    found = payload_of(records[-1], FuzzingRecord)
    facts = records[-1]["provenance"]
    rows = [
        [
            one["reader"],
            one["about"],
            f"{one['inputs']:,}",
            f"{one['refused']:,}",
            f"{one['seconds']:.1f}",
            f"{one['longest_s']:.2f}",
            f"{one['largest_mib']:.0f}",
            str(one["findings"]),
        ]
        for one in found["readers"]
    ]
    bounds = sorted({one["bound_mib"] for one in found["readers"]})
    assert len(bounds) == 1, "the page says one bound"
    table = Table(
        columns=[
            *("reader", "of", "inputs", "refused", "CPU s", "longest s", "most MiB", "findings"),
        ],
        rows=rows,
        align="llr",
    )
    inputs, refused, findings = (
        sum(one[key] for one in found["readers"]) for key in ("inputs", "refused", "findings")
    )
    return f"""# Fuzzing of the readers

Made by `python -m benchmarks.fuzzing_page` from the record in `results/fuzzing`; not written by
hand.

Every file that crosses a stage may be damaged, or made by someone who wishes to hang, crash or fill
the machine that reads it. Each reader below is given such files, each in a process that is ended
when an input takes more than {found["bound_cpu_s"]:g} s of processor time, and which has 4 GiB of
address space more than before. An input must be **read, or refused by one line** that says what is
wrong. A finding is anything else: a traceback, a hang, a crash of the process, more than
{bounds[0]} MiB of memory for one input, an error that only the lack of memory gave, one that is
longer than 2,000 characters or has control characters in it, and a file of the corpus as it is that
is refused. LiteRT's interpreter aborts on some damaged files; it loads each file in a process of
its own first, within 1 GiB and eight times the file, so that this is an error too.

The corpus in `tests/fuzz/corpus` is small and synthetic. Its files are damaged byte by byte, and by
their structure, so that the damage is reached: JSON (keys given twice, deep nesting, huge numbers,
NaN, other types), ONNX (sizes, attributes, missing tensors, cycles, branches, functions, data
outside of the file), zip and npz (names, sizes that lie, doubled members, bombs, array headers),
gzip and tar, safetensors, PNG chunks, offsets of FlatBuffers, TOML. Bundles are damaged in one file
and get hashes that fit.

| | |
| --- | --- |
| `make fuzz` | half an hour; `make fuzz SECONDS=600` shorter, `FIRST_SEED=100000` other inputs |
| `make test-slow` | a fixed number of inputs for each reader, half a minute of processor time |
| a finding | is printed with its reader and seed, and its input is kept in `.cache/fuzz` |
| again | `python -m tests.fuzz --case READER SEED`, with the traceback |

A seed gives the same input on every machine, for the same corpus.

## What came of it

{inputs:,} inputs, of which {refused:,} were refused and the others read; **{findings} findings**.

{table.markdown()}

*commit {str(facts["commit"])[:12]}{" (dirty)" if facts["dirty"] else ""}, \
{str(facts["date"])[:10]}, {facts["host"]["cpu_model"]}, \
{found["clock_seconds"] / 60:.0f} minutes, seeds from \
{found["first_seed"]:,}*
"""


if __name__ == "__main__":
    sys.exit(main())
