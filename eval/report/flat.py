"""Every result as one flat row of plain numbers, for who plots or computes for themselves."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.core.bit_widths import FLOAT
from deploy.core.errors import NothingToEvaluate
from deploy.core.strict_json import json_bytes
from eval.measure.adaptive.adaptive_record import KIND as ADAPTIVE
from eval.measure.adaptive.adaptive_record import AdaptiveRecord, adaptive_from_records
from eval.measure.checks.checks_record import AttackChecks, attack_checks_from_records
from eval.measure.evaluation_record import KIND, EvaluationRecord, made_on_it, patch_identity
from eval.report.attacks import adaptive_attacks
from eval.report.names import Names, names_from_records
from eval.report.rows import tables_from_records
from training.record_types import payloads

FORMAT = "qadtr-results"
FORMAT_VERSION = 1

_FLOAT_BITS = {FLOAT: "float"}


def flat_rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each model, engine and patch of the main table, then one for each adaptive
    evaluation in torch and its settings; rates are 0…1 with k, n and their 95% Wilson interval.

    Of several evaluations of one model, engine, patch and images the newest is taken.

    Raises:
        InputError: a record lacks a field.
        NothingToEvaluate: there is neither an evaluation nor an adaptive one.
    """
    origins = {
        record["payload"]["key"]: _of_origin(record["provenance"])
        for record in records
        if record["kind"] in (KIND, ADAPTIVE)
    }
    names, checks = names_from_records(records), attack_checks_from_records(records)
    evaluations = payloads(records, KIND, EvaluationRecord)
    adaptive = adaptive_from_records(records)
    if not evaluations and not adaptive:
        raise NothingToEvaluate("no evaluation record found; run `qadtr eval` first")
    verdicts = _verdicts(records) if evaluations else {}
    newest: dict[tuple[object, ...], dict[str, Any]] = {}
    for record in evaluations:
        row = _of_evaluation(record, names, checks, verdicts) | origins[record["key"]]
        model = record["model"]
        key = (model["file_sha256"], model["checkpoint_sha256"], model["bit_width"])
        tried = (*patch_identity(record["patch"]), record["images"]["digest"])
        newest[(*key, model["engine"], *tried)] = row
    return [
        *newest.values(),
        *(
            _of_adaptive(one, names, checks) | origins[one["key"]]
            for one in adaptive_attacks(adaptive)
        ),
    ]


def rows_as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """UTF-8, a line of headings first; what was not measured is empty."""
    columns = dict.fromkeys(key for row in rows for key in row)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def rows_as_json(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """``{"format", "format_version", "rows"}``; what was not measured is null."""
    about = {"format": FORMAT, "format_version": FORMAT_VERSION}
    return json_bytes({**about, "rows": [dict(row) for row in rows]})


def _of_origin(provenance: Mapping[str, Any]) -> dict[str, Any]:
    host = provenance.get("host") or {}
    return {
        "date": provenance.get("date"),
        "commit": provenance.get("commit"),
        "dirty": provenance.get("dirty"),
        "processor": host.get("cpu_model"),
    }


def _of_evaluation(
    record: EvaluationRecord,
    names: Names,
    checks: AttackChecks,
    verdicts: Mapping[tuple[object, ...], str],
) -> dict[str, Any]:
    model, patch, source = record["model"], record["patch"], record["patch"]["source"]
    latency, drift = record["latency"], record["drift"]
    height, width = patch["size_px"]
    return {
        "kind": "evaluation",
        **_of_model(model, names, [model["bit_width"]], "fixed"),
        "engine": model["engine"],
        "engine_version": model["engine_version"],
        **_of_images(record["images"]),
        "patch": patch["name"],
        "attack": patch["attack"],
        "patch_kind": patch["kind"],
        "patch_height_px": height,
        "patch_width_px": width,
        "patch_area_share": patch["area_share"],
        "placement": patch["placement"],
        "target": patch["target"],
        "attack_seed": patch["seed"],
        "attack_steps": patch["steps"],
        "attack_restarts": patch["restarts"],
        "source_network": source["network"],
        "source_defense": source["defense"],
        "source_bit_widths": _widths(source["bit_widths"] or []),
        "source_seed": source["seed"],
        "whitebox": made_on_it(patch, model["checkpoint_sha256"]),
        **_share("clean", record["clean_accuracy"]),
        **_share("asr", record["asr"]),
        **_share("robust", record["robust_accuracy"]),
        **_share("asr_common", record["asr_common"]),
        **_share("noise", record["floor"]["asr"]),
        "drift_points": None if drift is None else drift["asr_points"],
        "lower_bound": bool(checks.mark(model)),
        "comparability": verdicts.get(_row_key(model, record["images"]["digest"]), ""),
        "latency_p50_ms": None if latency is None else latency["p50_ms"],
        "latency_p95_ms": None if latency is None else latency["p95_ms"],
        "file_bytes": model["file_size_bytes"],
        "integer": None if model["certificate"] is None else model["certificate"]["ok"],
        "checkpoint_sha256": model["checkpoint_sha256"],
        "file_sha256": model["file_sha256"],
        "patch_sha256": patch["sha256"],
    }


def _of_adaptive(record: AdaptiveRecord, names: Names, checks: AttackChecks) -> dict[str, Any]:
    model, patch = record["model"], record["patch"]
    checkpoint, widths = model["checkpoint_sha256"], model["bit_widths"]
    return {
        "kind": "adaptive",
        **_of_model(model, names, widths, record["law"]),
        "engine": "torch",
        **_of_images(record["images"]),
        "patch": f"adaptive-{patch['size_px']}px-{patch['placement']}",
        "attack": "adaptive",
        "patch_kind": patch["kind"],
        "patch_height_px": patch["size_px"],
        "patch_width_px": patch["size_px"],
        "patch_area_share": patch["area_share"],
        "placement": patch["placement"],
        "attack_seed": record["seed"],
        "attack_steps": record["settings"].get("steps"),
        "attack_restarts": record["settings"].get("restarts"),
        "whitebox": True,
        **_share("clean", record["clean_accuracy"]),
        **_share("asr", record["asr"]),
        "lower_bound": bool(checks.mark_at(checkpoint, *widths)),
        "checkpoint_sha256": checkpoint,
    }


def _of_model(
    model: Mapping[str, Any], names: Names, widths: Sequence[int], law: str
) -> dict[str, Any]:
    run = model.get("run") or {"name": None, "seed": None}
    return {
        "name": names.of(model),
        "run": run["name"],
        "seed": run["seed"],
        "network": model["network"],
        "defense": model["defense"],
        "bits": _widths(widths),
        "law": law,
    }


def _of_images(images: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": images["name"], "split": images["split"], "data_sha256": images["digest"]}


def _widths(widths: Iterable[int]) -> str:
    return "/".join(_FLOAT_BITS.get(bits, str(bits)) for bits in widths)


def _share(name: str, share: Mapping[str, Any] | None) -> dict[str, Any]:
    fields = {"": "value", "_low": "low", "_high": "high", "_k": "k", "_n": "n"}
    return {f"{name}{end}": None if share is None else share[key] for end, key in fields.items()}


def _row_key(model: Mapping[str, Any], digest: str) -> tuple[object, ...]:
    return (model["checkpoint_sha256"], model["bit_width"], model["engine"], digest)


def _verdicts(records: Sequence[Mapping[str, Any]]) -> dict[tuple[object, ...], str]:
    """Whether each model may be compared with a plain one, by the main table's own rule."""
    return {
        _row_key(row.model, table.digest): row.comparability
        for table in tables_from_records(records)
        for row in table.rows
    }
