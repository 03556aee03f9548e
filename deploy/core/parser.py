"""The parser of every command: one line for an error."""

from __future__ import annotations

import argparse
from typing import NoReturn

from .errors import UsageError
from .text import one_line


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit 4: 2 means a broken input here."""

    @property
    def label(self) -> str:
        """What an error begins with."""
        return f"{self.prog}:"

    def error(self, message: str) -> NoReturn:
        """Print one line and exit 4."""
        line = f"{self.label} {one_line(message)}; see {self.prog} --help\n"
        self.exit(UsageError.exit_code, line)
