"""The errors that qadtr raises on purpose, each with the exit code of the command.

Exit codes: 0 pass, 1 gate failed, 2 broken input or engine, 3 nothing evaluated, 4 usage.
"""

from __future__ import annotations

from typing import ClassVar


class QadtrError(Exception):
    """Base of every error raised on purpose; its text is written for the person at the prompt.

    Example:
        >>> try:
        ...     qadtr.load("nowhere")
        ... except qadtr.QadtrError as error:
        ...     error.exit_code, str(error).partition(";")[0]
        (2, 'there is no run folder nowhere')
    """

    exit_code: ClassVar[int] = 2


class InputError(QadtrError):
    """A file or a value is missing, damaged or of another kind than promised."""


class EngineUnavailable(QadtrError):
    """The engine, provider or device that was asked for is not here, or there is none so named."""


class NothingToEvaluate(QadtrError):
    """There is no image to compute a figure from: an error, never a 0."""

    exit_code: ClassVar[int] = 3


class UsageError(QadtrError):
    """The command or function was called with settings it does not have."""

    exit_code: ClassVar[int] = 4
