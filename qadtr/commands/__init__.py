"""The subcommands of `qadtr`, one file each.

Each module has `HELP` (one line), `add_arguments(parser)` and `run(arguments) -> int` (the exit
code). At its top it imports the standard library alone, so that `qadtr --help` is quick and works
where only numpy is installed; what a command needs is imported when it runs.
"""

COMMANDS: tuple[str, ...] = (
    "demo",
    "configs",
    "train",
    "export",
    "patch",
    "pixel",
    "eval",
    "analyze",
    "certify",
    "checks",
    "matrix",
    "defenses",
    "report",
    "zoo",
    "bundle",
    "validator",
    "compare",
    "drift",
    "parity",
    "lower",
    "adopt",
    "inspect",
    "data",
    "doctor",
    "completion",
)
"""Names of the subcommands in the order of `qadtr --help`; the module has the same name."""
