"""The `qadtr` command: parse, call the library, print, exit.

Exit codes: 0 done · 2 a broken file, a missing package or an unexpected error · 3 nothing to
evaluate · 4 wrong usage · 130 interrupted (143 by SIGTERM, 129 by SIGHUP). A library error carries
its own code (`QadtrError.exit_code`).
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO

from deploy.core.colour import coloured
from deploy.core.errors import QadtrError, UsageError
from deploy.core.signals import Interrupted, signals_interrupt
from deploy.core.text import one_line
from qadtr import __version__
from qadtr.commands import COMMANDS
from qadtr.parser import Parser
from training.allocator import keep_freed_memory

EXIT_INTERRUPTED = 130


class _BesideBars(logging.StreamHandler[TextIO]):
    """Log lines on standard error that do not tear a progress bar apart."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, above the bar where one is drawn."""
        # Not imported for it: where nothing has imported tqdm, there is no bar.
        tqdm = sys.modules.get("tqdm")
        if tqdm is None:
            super().emit(record)
        else:
            tqdm.tqdm.write(self.format(record), file=self.stream)


def build_parser() -> Parser:
    """The parser with every subcommand; imports no library package."""
    parser = Parser(
        prog="qadtr",
        description=(
            "Train, export and measure small vision networks that resist adversarial patches "
            "at every bit-width, in the integer engine that ships."
        ),
    )
    parser.add_argument("--version", action="version", version=f"qadtr {__version__}")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser.set_defaults(execute=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name in COMMANDS:
        module = importlib.import_module(f"qadtr.commands.{name}")
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        # Accepted on either side of the subcommand; SUPPRESS keeps the left one from being undone.
        subparser.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,
            help="print the traceback of an error",
        )
        module.add_arguments(subparser)
        subparser.set_defaults(execute=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return the exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.execute is None:
        parser.print_help()
        return UsageError.exit_code
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_BesideBars()])
    keep_freed_memory()
    try:
        with signals_interrupt():
            return int(arguments.execute(arguments))
    except Interrupted as interrupted:
        print(f"qadtr: {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:
        print("qadtr: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return QadtrError.exit_code
    except Exception as error:  # noqa: BLE001 - the outermost frame: one line instead of a traceback
        return _report(error, debug=arguments.debug)


def _report(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    code, hint = QadtrError.exit_code, "" if debug else " (--debug shows where)"
    if isinstance(error, QadtrError):
        code, text = error.exit_code, error.line
    elif isinstance(error, OSError) and error.strerror is not None:
        # A file that only the library below us touched: a full disk, a folder without rights.
        place = "" if error.filename is None else f"{error.filename}: "
        reason = one_line(error.strerror)
        text = f"{place}{reason}; check the path, its rights and the space on its disk{hint}"
    elif (missing := _missing(error)) is not None:
        package, command = missing
        text = f"this needs the package {package}, which is not installed; install it: {command}"
    else:
        text = f"unexpected {type(error).__name__}: {one_line(str(error))}{hint}"
    print(coloured("qadtr:", "red", sys.stderr), text, file=sys.stderr)
    return code


def _missing(error: Exception) -> tuple[str, str] | None:
    """The package of an extra that could not be imported, and the command that installs it."""
    from deploy.core.installing import EXTRA_OF_MODULE, install_command

    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    extra = EXTRA_OF_MODULE.get(name)
    return None if extra is None else (name, install_command(extra))


if __name__ == "__main__":
    sys.exit(main())
