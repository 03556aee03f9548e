"""docs/results.md from the records in results/: every figure there is made by this command.

    python -m benchmarks.results_page [--check]

``results/RUNS/RUN/records`` holds the records of `qadtr eval`, `export` and `parity`;
``results/engines`` the records of `python -m benchmarks.engine_builds`;
``results/benchmarks/*.json`` what the benchmarks wrote; ``results/export`` the records of
`python -m benchmarks.export_table`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from benchmarks import target_rows
from benchmarks.clean_accuracy import HEADER as CLEAN_HEADER
from benchmarks.clean_accuracy import clean_rows
from benchmarks.defense_rows import TABLE, markdown
from benchmarks.defense_table import ROWS
from benchmarks.engine_builds import HEADER as BUILD_HEADER
from benchmarks.engine_builds import KIND as BUILD_KIND
from benchmarks.engine_builds import build_rows
from benchmarks.export_rows import HEADER, KIND, export_rows
from benchmarks.patch_attacks_rows import patch_attacks_rows
from benchmarks.supplied import ABOUT
from benchmarks.supplied import GROUP as SUPPLIED
from benchmarks.undefended import GROUP as UNDEFENDED
from benchmarks.undefended import undefended_rows
from deploy.core.errors import InputError
from deploy.core.files import read_json, write_atomic
from deploy.core.records import read_records
from deploy.core.table import Table
from eval.measure.adaptive.adaptive_record import KIND as ADAPTIVE_KIND
from eval.measure.checks.checks_record import KIND as CHECKS_KIND
from eval.measure.proofs import CERTIFICATE_KIND, PARITY_KIND
from eval.report import adaptive_table, text_table
from eval.report.analysis_table import HEADER as ANALYSES
from eval.report.analysis_table import analysed, analysis_rows
from eval.report.attack_checks import all_checks_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGE = ROOT / "docs" / "results.md"
BENCHMARKS = "benchmarks"
EXPORTS = "export"
ENGINES = "engines"
EVALUATION_KIND = "evaluation"


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
        if group.name == UNDEFENDED:
            parts += _of_undefended(group)
        elif group.name == SUPPLIED:
            records = read_records(group / "records")
            parts += [f"## {group.name}", ABOUT, _block(text_table(records)), _provenance(records)]
        elif group.name not in (BENCHMARKS, EXPORTS, ENGINES):
            parts += _of_runs(group)
    if (folder / EXPORTS).is_dir():
        parts += _of_exports(folder / EXPORTS)
    if (folder / ENGINES).is_dir():
        parts += _of_engines(folder / ENGINES)
    if (folder / BENCHMARKS).is_dir():
        parts += _of_benchmarks(folder / BENCHMARKS)
    if len(parts) == 2:
        raise InputError(f"{folder} holds no results")
    return "\n\n".join(parts) + "\n"


def _of_undefended(group: Path) -> list[str]:
    records = read_records(group / "records")
    return [f"## {group.name}", *undefended_rows(records), _provenance(records)]


def _of_runs(group: Path) -> list[str]:
    records = {
        run.name: read_records(run / "records")
        for run in sorted(group.iterdir())
        if (run / "records").is_dir()
    }
    everything = [record for of_run in records.values() for record in of_run]
    parts = [f"## {group.name}"]
    if (group / TABLE).is_file():
        return [*parts, *_of_defenses(group)]
    if any(record["kind"] == EVALUATION_KIND for record in everything):
        parts.append(_block(text_table(everything)))
    if any(record["kind"] == ADAPTIVE_KIND for record in everything):
        parts.append("An attacker who has the network and knows its defense (docs/checks.md).")
        parts.append(_block(adaptive_table(everything)))
    if any(record["kind"] == CHECKS_KIND for record in everything):
        parts.append("Whether the attacks can be believed (docs/checks.md).")
        parts.append(_block(all_checks_table(everything)))
    found = analysis_rows(everything)
    if found:
        parts.append(
            "Analyses of the fake-quantized networks under a patch, what they measure is in "
            f"[analyses](analyses.md): {'; '.join(analysed(everything))}. Means over images, "
            "95% intervals."
        )
        parts.append(_table(ANALYSES, found))
    rows = [
        [run, str(p["bit_width"]), f"{p['images']:,}", _different(p), _agreement(p)]
        for run, of_run in records.items()
        for p in _newest(of_run, PARITY_KIND)
    ]
    if rows:
        header = ["run", "bits", "images", "codes and logits that differ", "top-1 as in training"]
        parts += ["Parity: ONNX Runtime CPU against the integer reference.", _table(header, rows)]
    rows = [
        [run, str(p["bit_width"]), "yes" if p["ok"] else "NO", _counts(p), _requantized(p)]
        for run, of_run in records.items()
        for p in _newest(of_run, CERTIFICATE_KIND)
    ]
    if rows:
        header = ["run", "bits", "integer", "integer of all layers", "requantizations"]
        parts += ["Certificate: what ONNX Runtime really ran.", _table(header, rows)]
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


def _agreement(parity: Mapping[str, Any]) -> str:
    return "not asked" if parity["agreement"] is None else f"{parity['agreement']:.2%}"


def _counts(certificate: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{kind} {count['integer']} of {count['integer'] + count['float']}"
        for kind, count in certificate["counts"].items()
        if count["integer"] + count["float"]
    )


def _requantized(certificate: Mapping[str, Any]) -> str:
    pairs = len(certificate["float_requantizations"])
    return f"{len(certificate['requantizations'])} in integers, {pairs} through float"


def _of_defenses(group: Path) -> list[str]:
    """The table of the defenses, from its own file: the records it was made of are not kept."""
    table = cast(Mapping[str, Any], read_json(group / TABLE))
    epochs = ", ".join(f"{n:g}" for n in sorted({row["epochs"] for row in table["rows"]}))
    said = (
        f"{table['family']}; one budget for every row, {epochs} epochs, made by "
        "`python -m benchmarks.defense_table`. "
        "It says how the defenses stand to each other after that, not what each can reach. No rate "
        "is more than what these attacks achieved; where no check is named, none was run."
    )
    missing = [row for row in ROWS if row not in {there["row"] for there in table["rows"]}]
    if missing:
        said += f" Not in this table: {', '.join(missing)}."
    return [said, markdown(table), _provenance([table])]


def _of_exports(folder: Path) -> list[str]:
    records = read_records(folder, KIND)
    if not records:
        return []
    return [
        "## Exported files",
        (
            "Made by `python -m benchmarks.export_table`. Nodes are those that ONNX Runtime's CPU "
            "provider really ran. The engine is compared with the integer reference code by code "
            "and logit by logit; flips are images whose class differs between the engine and the "
            "fake-quantized network. Images are test images: CIFAR-10's (JPEG copy) at 32 px, "
            "Imagenette's at 224 px. Networks whose weights are drawn have no trained weights "
            "here, and their flip counts say little: one code that float32 rounding moves in an "
            "early layer grows from layer to layer of a deep network that was never trained, so "
            "that the deepest of them flip most. Only the trained rows measure what a user meets."
        ),
        _table(HEADER, export_rows(records)),
        _provenance(records),
        *_of_targets(folder),
    ]


def _of_engines(folder: Path) -> list[str]:
    records = read_records(folder, BUILD_KIND)
    if not records:
        return []
    builders = {
        f"{one['name']} {one['version']}": None
        for one in (record["payload"]["builder"] for record in records)
    }
    return [
        "## Engines built, never run",
        (
            f"Made by `python -m benchmarks.engine_builds` with {', '.join(builders)} on a machine "
            "without a GPU: these plans were compiled, none of them has run on hardware. Every "
            "convolution, matrix product and pool that the builder lists reads int8 codes and, "
            "where it has weights, holds int8 ones; the ONNX file has as many convolutions and "
            "products. Tensors are those that layers hand on: int8 codes, and float32 sums, "
            "residual streams and logits. What is fused into elementwise kernels (additions, "
            "clamps, the global pool) is not listed by kind ([engines](engines.md))."
        ),
        _table(BUILD_HEADER, build_rows(records)),
        _provenance(records),
    ]


def _of_targets(folder: Path) -> list[str]:
    records = read_records(folder, target_rows.KIND)
    if not records:
        return []
    table = _table(target_rows.HEADER, target_rows.target_rows(records))
    return ["### Targets with a budget", target_rows.ABOUT, table, _provenance(records)]


def _of_benchmarks(folder: Path) -> list[str]:
    parts = ["## Benchmarks", "Measured side by side, in one run each."]
    shown = {
        "speed": _speed,
        "sizes": _sizes,
        "requantization": _requantization,
        "training-step": _training_step,
        "patch-attacks": patch_attacks_rows,
        "evaluation": _evaluation,
        "clean-accuracy": _clean_accuracy,
        "validator": _validator,
        "image-cache": _image_cache,
    }
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        if not isinstance(record, dict) or record.get("benchmark") not in shown:
            raise InputError(f"{path} is no record of {', '.join(shown)}")
        parts += [f"### {path.stem}", shown[record["benchmark"]](record), _provenance([record])]
    return parts


def _clean_accuracy(record: Mapping[str, Any]) -> str:
    images = record["images"]
    text = (
        f"{images['n']:,} images of {images['name']}, {images['split']} split, engine "
        f"{record['engine']}. Differences are over the same images, with Newcombe's paired 95% "
        "interval; they are of these two networks, and how much another seed of the same training "
        "differs is not in the interval."
    )
    return f"{text}\n\n{_table(CLEAN_HEADER, clean_rows(record))}"


def _ratio(value: Mapping[str, float]) -> str:
    return f"{value['median']:.2f} ({value['lower_quartile']:.2f}–{value['upper_quartile']:.2f})"


def _speed(record: Mapping[str, Any]) -> str:
    peers = {
        "float": "× float ONNX",
        "stock": "× stock QCDQ",
        "static": "× quantize_static",
        "openvino": "× OpenVINO int8",
    }
    header = ["threads", "batch", "bits", "images/s", *peers.values()]
    header += ["in OpenVINO, × its quantize_static file", "undisturbed", "of peak"]
    rows = [
        [
            str(row["threads"]),
            str(row["batch"]),
            _bits_and_tune(row),
            f"{row['images_per_s']:,.0f}",
            *(_ratio_and_steady(row["over"][peer]) for peer in peers),
            _ratio_and_steady(row.get("in_openvino_over_static")),
            f"{row['steady_rounds']} of {record['rounds']}",
            f"{row['share_of_int8_peak']:.0%}",
        ]
        for row in record["rows"]
    ]
    text = (
        f"{record['network']} at {record['size']} px; b-bit codes, int8 arithmetic. Ratios: median "
        "and quartiles over all rounds, then the median over the undisturbed ones (those in which "
        f"the core gave {record['steady_share']:.0%} of its best int8 rate before and after). "
        "OpenVINO int8 is the faster of two files there: our `qcdq` file and the one that "
        "`quantize_static` made; the column before the last two is between those."
    )
    if any(row.get("tune") == "amx" for row in record["rows"]):
        text += " amx: our file as `qadtr export --tune amx` writes it."
    return f"{text}\n\n{_table(header, rows)}"


def _bits_and_tune(row: Mapping[str, Any]) -> str:
    # Records of before have the file for any processor alone.
    tune = row.get("tune", "any")
    return str(row["bits"]) if tune == "any" else f"{row['bits']} {tune}"


def _ratio_and_steady(value: Mapping[str, Any] | None) -> str:
    if value is None:  # not measured when that record was made
        return "–"
    steady = value["steady_median"]
    return f"{_ratio(value)}; {'–' if steady is None else f'{steady:.2f}'}"


def _validator(record: Mapping[str, Any]) -> str:
    text = (
        f"ResNet-20, 4-bit codes, one thread, {record['images']:,} images × {record['patches']} "
        "patches; start, memory and size against `import onnxruntime` alone."
    )
    rows = [[name, f"{value:,.3f}"] for name, value in record["figures"].items()]
    return f"{text}\n\n{_table(['figure', 'value'], rows)}"


def _image_cache(record: Mapping[str, Any]) -> str:
    header = [
        *("network", "px", "images", "batch", "held for images: memory", "disk"),
        *("peak: disk / memory", "images/s: disk / memory", "start: memory", "disk"),
    ]
    rows = [
        [
            row["network"],
            str(row["size"]),
            f"{row['images']:,} ({_megabytes(row['image_bytes'])})",
            str(row["batch"]),
            *(_megabytes(row["bytes_for_images"][side]) for side in ("memory", "disk")),
            f"{row['peak_disk_over_memory']:.2f} of {_megabytes(row['peak_bytes']['memory'])}",
            _ratio(row["speed_disk_over_memory"]),
            *(f"{row['read_s'][side]:,.2f} s" for side in ("memory", "disk")),
        ]
        for row in record["rows"]
    ]
    text = (
        f"Plain QAT on {record['data']}, images mapped from disk (`--cache`) beside images held in "
        "memory; the weights after all steps were equal. Memory is the anonymous pages of the "
        f"process; speed: median and quartiles of {record['rounds']} rounds; start: until all "
        "images are there, from a cache that had been made."
    )
    return f"{text}\n\n{_table(header, rows)}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _sizes(record: Mapping[str, Any]) -> str:
    rows = [
        [row["network"], str(row["bits"]), f"{row['bytes']:,}", f"{row['share_of_float']:.4f}"]
        for row in record["rows"]
    ]
    return _table(["network", "bits", "bytes", "of the float file"], rows)


def _requantization(record: Mapping[str, Any]) -> str:
    rows = [
        ["×".join(map(str, row["shape"])), row["way"], f"{row['ns_per_element']:.3f}"]
        for row in record["rows"]
    ]
    return _table(["shape", "operators", "ns per element"], rows)


def _training_step(record: Mapping[str, Any]) -> str:
    header = ["row", "× plain QAT", "images/s", "forwards", "backwards"]
    rows = [
        [
            row["row"],
            _ratio(row["over_plain"]),
            f"{row['images_per_s']:,.0f}",
            f"{row['forwards']:.2f}",
            f"{row['backwards']:.2f}",
        ]
        for row in record["rows"]
    ]
    bits = ", ".join(map(str, record["bit_widths"]))
    text = (
        f"A training step of {record['network']}, batch {record['batch']}, the bit-widths {bits} "
        f"in turn, on {record['device']} with {record['threads']} thread(s); median and quartiles "
        f"of {record['rounds']} rounds; forwards and backwards of the batch a step."
    )
    return f"{text}\n\n{_table(header, rows)}"


def _evaluation(record: Mapping[str, Any]) -> str:
    return (
        f"`qadtr eval` of {record['network']}, {record['bits']}-bit codes, {record['threads']} "
        f"thread, {record['images']:,} images × {record['patches']} patch sets, everything but the "
        f"drift: {_ratio(record['whole_over_engine'])} times the bare engine on as many images; "
        f"CPU time, median and quartiles of {record['rounds']} rounds."
    )


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


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return Table(columns=header, rows=rows).markdown()


if __name__ == "__main__":
    sys.exit(main())
