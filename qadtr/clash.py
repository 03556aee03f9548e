"""Whether Python finds this project's own packages: their names are ones that others use too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

OWN = ("deploy", "eval", "export", "training")
_EXIT_BROKEN = 2


def require_own_packages() -> None:
    """Refuse to go on where another `training`, `eval`, … is found first.

    `python -m qadtr` looks in the working directory before anywhere else.

    Raises:
        ImportError: naming the other one.
        SystemExit: the same in one line and exit code 2, where the command is being started.
    """
    root = Path(__file__).resolve().parents[1]
    # An editable install is not a place on the path: a mere folder `training` would come before it.
    if str(root) not in sys.path:
        sys.path.append(str(root))
    for name in OWN:
        spec = importlib.util.find_spec(name)
        found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if found == root / name / "__init__.py":
            continue
        if found is None:
            message = f"qadtr's own package {name} is missing from {root}; install qadtr again"
        else:
            other = found.parent if found.name == "__init__.py" else found
            message = (
                f"qadtr needs its own package {name}, but Python finds {other} first; rename "
                "that one, or start qadtr from another folder"
            )
        # "-m" is what `python -m qadtr` has there until the module is found.
        if sys.argv and Path(sys.argv[0]).name in ("-m", "qadtr"):
            sys.stderr.write(f"qadtr: {message}\n")
            raise SystemExit(_EXIT_BROKEN)
        raise ImportError(message)
