"""What a page of the results reads: its records, their names, the proofs."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.results_topics import _named, _newest
from deploy.core.records import published_records
from eval.report.names import names_from_records
from eval.stages.zoo import RECORDS

GROUP = Path(__file__).parents[2] / "results" / "cifar10-resnet20-cpu"


def test_a_network_is_called_as_its_folder_is_though_its_records_were_made_elsewhere(
    tmp_path: Path,
) -> None:
    runs = [tmp_path / "mine", tmp_path / "other"]
    for run, made in zip(runs, ("longer", "default"), strict=True):
        shutil.copytree(GROUP / made / RECORDS, run / RECORDS)
    there = [record for run in runs for record in published_records(run / RECORDS, "evaluation")]
    assert not {one["payload"]["model"]["run"]["name"] for one in there} & {"mine", "other"}
    names = names_from_records([record for run in runs for record in _named(run)])
    called = {"resnet20 QADT-R: mine", "resnet20 QADT-R: other"}
    assert set(names.by_checkpoint.values()) == called


def test_the_newest_certificate_counts_where_certificates_count_no_images() -> None:
    payloads = [{"bit_width": 8, "ok": ok} for ok in (False, True)]
    records = {"run": [{"kind": "certificate", "payload": one} for one in payloads]}
    assert _newest(records, "certificate") == {"run at 8 bits": payloads[1]}
