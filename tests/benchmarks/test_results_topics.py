"""The proofs that a page of the results speaks of."""

from __future__ import annotations

from benchmarks.results_topics import _newest


def test_the_newest_certificate_counts_where_certificates_count_no_images() -> None:
    payloads = [{"bit_width": 8, "ok": ok} for ok in (False, True)]
    records = {"run": [{"kind": "certificate", "payload": one} for one in payloads]}
    assert _newest(records, "certificate") == {"run at 8 bits": payloads[1]}
