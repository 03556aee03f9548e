"""Records in; one HTML page and the tables for the terminal out; numbers come from records only."""

from __future__ import annotations

from eval.report.adaptive import adaptive_table
from eval.report.attack_checks import checks_table
from eval.report.gallery import Picture, patch_picture
from eval.report.page import render_report
from eval.report.results import text_table

__all__ = [
    "Picture",
    "adaptive_table",
    "checks_table",
    "patch_picture",
    "render_report",
    "text_table",
]
