"""``python -m tests.fuzz``: every reader of a file, on inputs that are made to break it.

Each finding is printed with a reader and a seed, ``READER SEED: …``; ``--case READER SEED`` reads
that input again, with the traceback. The exit code is 1 where there are findings.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fuzzing_page import KIND, FuzzingRecord
from deploy.core.records import provenance, write_record
from tests.fuzz.readers import READERS
from tests.fuzz.running import Extent, Summary, run
from tests.fuzz.trial import CPU_SECONDS, Reader, input_of, limit_memory, tried


def main() -> int:
    arguments = _parser().parse_args()
    by_name = {reader.name: reader for reader in READERS}
    if arguments.case:
        return _again(arguments.case[0], int(arguments.case[1]))
    readers = [by_name[name] for name in arguments.reader] or list(READERS)
    seconds = None if arguments.seconds is None else arguments.seconds / len(readers)
    begun = time.monotonic()
    extent = Extent(seconds=seconds, first_seed=arguments.first_seed, found=arguments.found)
    summaries = []
    for reader in readers:
        summaries.append(run(reader, extent))
        _print(summaries[-1])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([vars(one) for one in summaries]), encoding="utf-8")
    if arguments.record is not None:
        payload = _payload(summaries, readers, arguments.first_seed, time.monotonic() - begun)
        facts = provenance(repository=Path(__file__).parents[2], seed=arguments.first_seed)
        print(write_record(arguments.record, KIND, dict(payload), facts))
    found = sum(len(one.findings) for one in summaries)
    inputs = sum(one.inputs for one in summaries)
    print(f"{inputs:,} inputs of {len(summaries)} readers, {found} findings")
    return int(found > 0)


def _parser() -> argparse.ArgumentParser:
    names = [reader.name for reader in READERS]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    add = parser.add_argument
    add(
        "--reader", action="append", default=[], choices=names, help="this one, any number of times"
    )
    add("--seconds", type=float, help="for all together (default: a number of inputs for each)")
    add("--first-seed", type=int, default=0, metavar="N", help="default: 0")
    add("--found", type=Path, metavar="DIR", help="keep the inputs that gave a finding there")
    add("--case", nargs=2, metavar=("READER", "SEED"), help="read this one input again")
    add("--json", type=Path, metavar="FILE", help="also write the figures there")
    add("--record", type=Path, metavar="DIR", help="also write a record there, for docs/fuzzing.md")
    return parser


def _payload(
    summaries: Sequence[Summary], readers: Sequence[Reader], first_seed: int, seconds: float
) -> FuzzingRecord:
    return {
        "readers": [
            {
                "reader": one.reader,
                "about": reader.about,
                "inputs": one.inputs,
                "refused": one.refused,
                "seconds": round(one.seconds, 2),
                "longest_s": round(one.longest, 3),
                "largest_mib": round(one.mib, 1),
                "bound_mib": reader.mib,
                "findings": len(one.findings),
            }
            for one, reader in zip(summaries, readers, strict=True)
        ],
        "first_seed": first_seed,
        "clock_seconds": round(seconds, 1),
        "bound_cpu_s": float(CPU_SECONDS),
    }


def _print(summary: Summary) -> None:
    print(
        f"{summary.reader}: {summary.inputs:,} inputs, {summary.refused:,} refused, "
        f"{summary.seconds:.1f} s, longest {summary.longest:.2f} s, {summary.mib:.0f} MiB, "
        f"{len(summary.findings)} findings",
        flush=True,
    )
    for line in summary.findings:
        print(f"  {line}", flush=True)


def _again(name: str, seed: int) -> int:
    (reader,) = (one for one in READERS if one.name == name)

    def traced(path: Path) -> object:
        print(f"{path.name}: {path}")
        try:
            return reader.read(path)
        except Exception:
            traceback.print_exc()
            raise

    limit_memory()
    file, data = input_of(reader, seed)
    outcome = tried(
        type(reader)(**{**vars(reader), "read": traced}),
        file,
        data,
        undamaged=seed < len(reader.files()),
    )
    print(outcome)
    return int(outcome.fault is not None)


if __name__ == "__main__":
    sys.exit(main())
