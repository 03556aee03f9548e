"""The report: one HTML page, and the table for the terminal; numbers come from records only."""

from __future__ import annotations

from eval.report.adaptive import adaptive_table
from eval.report.attack_checks import checks_table
from eval.report.examples import write_examples
from eval.report.page import render_report, write_report
from eval.report.pictures import Picture, patch_pictures
from eval.report.table import text_table

__all__ = [
    "Picture",
    "adaptive_table",
    "checks_table",
    "patch_pictures",
    "render_report",
    "text_table",
    "write_examples",
    "write_report",
]
