"""The user's own code by ``package.module:name``, accepted wherever a registered name is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from deploy.core.errors import InputError, QadtrError

FORM = "package.module:name"


def is_foreign(name: str) -> bool:
    """Whether a name is one of the user's own, and not a registered one."""
    return ":" in name


def named(name: str, what: str) -> Callable[..., Any]:
    """The class or function that ``package.module:name`` names. It is searched on Python's path,
    then in the current folder.

    Args:
        name: with a colon.
        what: the kind of object, such as "network", for the errors.

    Raises:
        InputError: there is no such module or name, the module cannot be imported, or the object
            cannot be called.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise InputError(
            f"there is no {what} {name!r}: {' '.join(str(error).split())}; expected {FORM}, "
            "installed or below the current folder"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise InputError(f"{name} is a {type(found).__name__}, expected a callable")
    made: Callable[..., Any] = found
    return made


def class_named(name: str, base: type[Any], what: str) -> type[Any]:
    """The subclass of ``base`` that a name names.

    Raises:
        InputError: as :func:`named`, or it is something else.
    """
    found = named(name, what)
    if not isinstance(found, type) or not issubclass(found, base):
        article = "an" if what[0] in "aeiou" else "a"
        raise InputError(
            f"{name} is not {article} {what}: expected a subclass of "
            f"{base.__module__}.{base.__name__}"
        )
    lacking = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
    if lacking:
        raise InputError(f"{name} is not a complete {what}: it lacks {lacking}")
    return found


def called(name: str, what: str, *arguments: Any) -> Any:
    """The result of calling the object that :func:`named` returns with ``arguments``.

    Raises:
        InputError: as :func:`named`, or the call raises another error, which is then the cause.
    """
    function = named(name, what)
    try:
        return function(*arguments)
    except QadtrError:
        raise
    except Exception as error:
        raise InputError(
            f"the {what} {name} failed: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def unknown(what: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not registered and does not name the user's own code."""
    return InputError(f"unknown {what} {name!r}; known: {', '.join(known)}, or your own as {FORM}")
