"""Records that are each of the right form and say what cannot be together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from deploy.core.errors import InputError, QadtrError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_OF_MISFITS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What Python raises where a map has other rows than edges, or a share no bit-width."""


def refuses_misfits(
    function: Callable[_Arguments, _Result],
) -> Callable[_Arguments, _Result]:
    """Decorate what makes a report of records, so that values of theirs that do not fit each other
    are one :class:`~deploy.core.errors.InputError`."""

    @functools.wraps(function)
    def guarded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except QadtrError:
            raise
        except _OF_MISFITS as error:
            raise InputError(
                f"the records do not fit together ({type(error).__name__}: {error}): one of them "
                "was edited or written by another version; create it again, or read it with the "
                "version that wrote it"
            ) from error

    return guarded
