"""The results in the documents are those of the records in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results_page import PAGE, RESULTS, results_page
from deploy.device.errors import InputError


def test_the_page_is_what_the_records_give() -> None:
    assert PAGE.read_text(encoding="utf-8") == results_page(RESULTS)


def test_an_empty_folder_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        results_page(tmp_path)
