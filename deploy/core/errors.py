"""The errors that qadtr raises on purpose, each with the exit code of the command.

Exit codes: 0 pass, 1 gate failed, 2 broken input or engine, 3 nothing evaluated, 4 usage.
"""

from __future__ import annotations

from typing import ClassVar

from .text import printable, shortened

LONGEST_LINE = 1000
"""Characters of one line of an error; what is longer is cut in its middle."""


class QadtrError(Exception):
    """Base of every error raised on purpose; its text is written for the person at the prompt.

    Its text may contain names from files: control characters, marks that change the direction of
    text, and halves of surrogate pairs are shown as "?", and very long names are cut.

    Example:
        >>> try:
        ...     qadtr.load("nowhere")
        ... except qadtr.QadtrError as error:
        ...     error.exit_code, str(error).partition(";")[0]
        (2, 'there is no run folder nowhere')
    """

    exit_code: ClassVar[int] = 2

    def __str__(self) -> str:
        lines = printable(super().__str__()).splitlines()
        return "\n".join(shortened(line, LONGEST_LINE) for line in lines)

    @property
    def line(self) -> str:
        """The text as commands print it: several lines are joined into one."""
        lines = [" ".join(one.split()) for one in str(self).splitlines()]
        return "; ".join(filter(None, lines)).replace(":; ", ": ")


class InputError(QadtrError):
    """A file or a value is missing, damaged or not of the expected kind."""


class EngineUnavailable(QadtrError):
    """The requested engine, provider or device is not available here, or does not exist."""


class NothingToEvaluate(QadtrError):
    """There is no image to compute a figure from: an error, never a 0."""

    exit_code: ClassVar[int] = 3


class UsageError(QadtrError):
    """The command or function was called with settings it does not have."""

    exit_code: ClassVar[int] = 4
