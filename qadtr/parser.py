"""The command line's parser: one line for an error, with what was perhaps meant."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from deploy.core import parser
from deploy.core.colour import coloured

_CHOICE = re.compile(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<known>.*)\)")


class Parser(parser.Parser):
    """A parser that says what was perhaps meant.

    Its ``type=float`` is finite; what numbers are mostly of is in :mod:`qadtr.arguments`.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.register("type", float, _finite)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As in argparse; an unknown option is held against those of the command that was named."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = getattr(found, "command", None)
            parser = self.commands.get(command, self) if isinstance(command, str) else self
            options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            meant = [_meant(option, parser._option_string_actions) for option in options]
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(meant[:1])}")
        return found

    @property
    def label(self) -> str:
        """What an error begins with, red on a terminal."""
        return coloured(super().label, "red", sys.stderr)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit 4."""
        choice = _CHOICE.search(message)
        if choice is not None:
            message += _meant(choice["given"], re.findall(r"[\w.-]+", choice["known"]))
        super().error(message)

    @property
    def commands(self) -> dict[str, Parser]:
        """The parsers of the subcommands, by name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                choices: Any = action.choices
                return dict(choices)
        return {}


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text}")
    return value


def _meant(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
