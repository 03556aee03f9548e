"""docs/results.md from the records in results/: every figure there is made by this command.

    python -m benchmarks.results_page [--check]

``results/RUNS/RUN/records`` holds the records of `qadtr eval`, `export` and `parity`, ``about.md``
beside them what they do not say by themselves;
``results/export`` and ``results/engines`` the records of `python -m benchmarks.export_table`;
``results/benchmarks/*.json`` what the benchmarks wrote.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from benchmarks.export_rows import (
    BUILD_KIND,
    KIND,
    LITERT_KIND,
    TARGET_KIND,
    Columns,
    Payload,
    builds_table,
    files_table,
    litert_table,
    table_of,
    targets_table,
)
from benchmarks.records import ROOT, cells_of, described
from deploy.core.errors import InputError
from deploy.core.files import read_json, write_atomic
from deploy.core.records import read_records, records_so_far
from deploy.core.table import Table
from eval.measure.adaptive.adaptive_record import KIND as ADAPTIVE_KIND
from eval.measure.certification_record import KIND as CERTIFICATION_KIND
from eval.measure.certification_record import certifications_from_records
from eval.measure.checks.checks_record import KIND as CHECKS_KIND
from eval.measure.defenses import TABLE
from eval.measure.proofs import CERTIFICATE_KIND, PARITY_KIND
from eval.report.adaptive import adaptive_table
from eval.report.analysis_table import HEADER as ANALYSES
from eval.report.analysis_table import analysed, analysis_rows
from eval.report.attack_checks import all_checks_table
from eval.report.certification import certification_table
from eval.report.defenses import defenses_markdown
from eval.report.names import names_from_records
from eval.report.results import text_table
from eval.stages.defenses import ROWS

RESULTS = ROOT / "results"
PAGE = ROOT / "docs" / "results.md"
BENCHMARKS = "benchmarks"
EXPORTS = "export"
RECORDS = "records"
ABOUT = "about.md"
"""In a group's folder: what was done, where the records alone do not say it."""
ENGINES = "engines"
OWN_PAGES = ("fuzzing", "public-networks")
"""Folders of results/ that benchmarks.fuzzing_page and benchmarks.public_networks make pages of."""
EVALUATION_KIND = "evaluation"

SECTIONS: Mapping[str, tuple[str, Callable[[Sequence[Payload]], Table]]] = {
    f"{EXPORTS}/files.md": (KIND, files_table),
    f"{EXPORTS}/litert.md": (LITERT_KIND, litert_table),
    f"{EXPORTS}/targets.md": (TARGET_KIND, targets_table),
    f"{ENGINES}/about.md": (BUILD_KIND, builds_table),
}
"""Heading and text of results/, the kind of the records beside it, and their table."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or with ``--check`` say whether it is the one that the records give."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results_page")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it is stale")
    arguments = parser.parse_args(argv)
    text = results_page(RESULTS)
    if arguments.check:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("docs/results.md is up to date" if fresh else "docs/results.md is stale")
        return 0 if fresh else 1
    write_atomic(PAGE, text.encode())
    print(f"wrote {PAGE}")
    return 0


def results_page(folder: Path) -> str:
    """The page as Markdown.

    Args:
        folder: results/.

    Raises:
        InputError: a record is damaged, or there is none.
    """
    parts = [
        "# Results",
        (
            "Made by `python -m benchmarks.results_page` from the records in `results/`; not "
            "written by hand. ASR is over the images that the model classifies correctly without "
            "the patch; intervals are Wilson's at 95%. Each column says which network its patches "
            "were made on: an undefended float network of another seed (transfer), or the model's "
            "own 32-bit mode (white-box at 32 bits). A low figure in a "
            "transfer column is not robustness by itself: the table of the adaptive attack says "
            "what an attacker who has the network achieves."
        ),
    ]
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        if group.name not in (BENCHMARKS, EXPORTS, ENGINES, *OWN_PAGES):
            parts += _of_runs(group)
    for about, (kind, table) in SECTIONS.items():
        if records := records_so_far((folder / about).parent, kind):
            said = _said((folder / about).read_text(encoding="utf-8").strip(), records)
            parts += [said, table(records).markdown(), _provenance(records)]
    if (folder / BENCHMARKS).is_dir():
        parts += _of_benchmarks(folder / BENCHMARKS)
    if len(parts) == 2:
        raise InputError(f"{folder} holds no results")
    return "\n\n".join(parts) + "\n"


def _of_runs(group: Path) -> list[str]:
    records = {
        run.name: read_records(run / RECORDS)
        for run in (group, *sorted(group.iterdir()))
        if (run / RECORDS).is_dir()
    }
    everything = [record for of_run in records.values() for record in of_run]
    parts = [f"## {group.name}"]
    if (group / ABOUT).is_file():
        parts.append((group / ABOUT).read_text(encoding="utf-8").strip())
    if (group / TABLE).is_file():
        return [*parts, *_of_defenses(group)]
    kinds = {record["kind"] for record in everything}
    if EVALUATION_KIND in kinds:
        parts.append(_block(text_table(everything)))
    if ADAPTIVE_KIND in kinds:
        parts.append("An attacker who has the network and knows its defense (docs/checks.md).")
        parts.append(_block(adaptive_table(everything)))
    if CHECKS_KIND in kinds:
        parts.append("Whether the attacks can be believed (docs/checks.md).")
        parts.append(_block(all_checks_table(everything)))
    if CERTIFICATION_KIND in kinds:
        parts.append("What no patch of a size can change (docs/certify.md).")
        found = certifications_from_records(everything)
        parts.append(certification_table(found, names_from_records(everything)).markdown())
    analyses = analysis_rows(everything)
    if analyses:
        parts.append(
            "Analyses of the fake-quantized networks under a patch, what they measure is in "
            f"[analyses](analyses.md): {'; '.join(analysed(everything))}. Means over images, "
            "95% intervals."
        )
        parts.append(Table(columns=ANALYSES, rows=analyses).markdown())
    for kind, (said, columns) in PROOFS.items():
        newest = [
            {**p, "run": run} for run, of_run in records.items() for p in _newest(of_run, kind)
        ]
        if newest:
            parts += [said, table_of(columns, newest).markdown()]
    return [*parts, _provenance(everything)]


def _newest(records: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    """The payloads of one kind, the largest and then newest for each bit-width, widest first."""
    best: dict[int, Mapping[str, Any]] = {}
    for record in records:
        if record["kind"] == kind:
            payload = record["payload"]
            before = best.get(payload["bit_width"])
            if before is None or payload["images"] >= before["images"]:
                best[payload["bit_width"]] = payload
    return [best[bits] for bits in sorted(best, reverse=True)]


def _different(parity: Mapping[str, Any]) -> str:
    codes = sum(layer["values"] for layer in parity["layers"])
    wrong = sum(layer["different"] for layer in parity["layers"])
    logits = parity["images"] * parity["classes"]
    return f"{wrong:,} of {codes:,} and {parity['logits_different']:,} of {logits:,}"


def _counts(certificate: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{kind} {count['integer']} of {count['integer'] + count['float']}"
        for kind, count in certificate["counts"].items()
        if count["integer"] + count["float"]
    )


def _requantized(certificate: Mapping[str, Any]) -> str:
    pairs = len(certificate["float_requantizations"])
    return f"{len(certificate['requantizations'])} in integers, {pairs} through float"


PROOFS: Mapping[str, tuple[str, Columns]] = {
    PARITY_KIND: (
        "Parity: ONNX Runtime CPU against the integer reference.",
        {
            "run": lambda p: p["run"],
            "bits": lambda p: str(p["bit_width"]),
            "images": lambda p: f"{p['images']:,}",
            "codes and logits that differ": _different,
            "top-1 as in training": lambda p: (
                "not asked" if p["agreement"] is None else f"{p['agreement']:.2%}"
            ),
        },
    ),
    CERTIFICATE_KIND: (
        "Certificate: what ONNX Runtime really ran.",
        {
            "run": lambda p: p["run"],
            "bits": lambda p: str(p["bit_width"]),
            "integer": lambda p: "yes" if p["ok"] else "NO",
            "integer of all layers": _counts,
            "requantizations": _requantized,
        },
    ),
}
"""What is said of each kind of proof, and the columns of its table."""


def _of_defenses(group: Path) -> list[str]:
    """The table of the defenses, from its own file: the records it was made of are not kept."""
    table = cast(Mapping[str, Any], read_json(group / TABLE))
    epochs = ", ".join(f"{n:g}" for n in sorted({row["epochs"] for row in table["rows"]}))
    said = (
        f"{table['family']}; one budget for every row, {epochs} epochs, made by "
        "`qadtr defenses`. "
        "It says how the defenses stand to each other after that, not what each can reach. No rate "
        "is more than what these attacks achieved; where no check is named, none was run."
    )
    missing = [row for row in ROWS if row not in {there["row"] for there in table["rows"]}]
    if missing:
        said += f" Not in this table: {', '.join(missing)}."
    return [said, defenses_markdown(table), _provenance([table])]


def _said(text: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The text, with the builders that the records name in it."""
    built = (record["payload"].get("builder") for record in records)
    names = dict.fromkeys(f"{one['name']} {one['version']}" for one in built if one)
    return text.format(builders=", ".join(names))


def _of_benchmarks(folder: Path) -> list[str]:
    parts = [
        "## Benchmarks",
        (
            "Measured side by side, in one run each. The benchmarks of sizes, requantization, "
            "image cache, patch attacks and evaluation have answered their question: they are in "
            "the history, at commit d6318f0."
        ),
    ]
    for path in sorted(folder.glob("*.json")):
        record: Any = read_json(path)
        if not isinstance(record, dict) or "benchmark" not in record:
            raise InputError(f"{path} is no record of a benchmark")
        about = (folder / record["benchmark"]).with_suffix(".md").read_text(encoding="utf-8")
        parts += [f"### {path.stem}", about.strip()]
        if text := described(record):
            parts.append(f"{text[0].upper()}{text[1:]}.")
        header, *cells = cells_of(record)
        if header:
            parts.append(Table(columns=header, rows=cells).markdown())
        parts.append(_provenance([record]))
    return parts


def _provenance(records: Sequence[Mapping[str, Any]]) -> str:
    seen: dict[str, None] = {}
    for record in records:
        facts = record.get("provenance") or {}
        commit = str(facts.get("commit") or "unknown")[:12]
        dirty = " (dirty)" if facts.get("dirty") else ""
        cpu = (facts.get("host") or {}).get("cpu_model", "unknown processor")
        versions = facts.get("packages") or {}
        runtime = (
            f"onnxruntime {versions.get('onnxruntime', '?')}, torch {versions.get('torch', '?')}"
        )
        seen[f"commit {commit}{dirty}, {str(facts.get('date'))[:10]}, {cpu}, {runtime}"] = None
    return "\n".join(f"*{line}*" for line in seen)


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    sys.exit(main())
