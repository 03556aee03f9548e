"""What one profiled batch really ran, from ONNX Runtime's own profile, without the onnx package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.files import read_json
from ..core.operator_kinds import KIND_OF, KINDS

_SUFFIX = "_kernel_time"
_CPU = "CPUExecutionProvider"
_BOTH_INPUTS = frozenset(
    {"Add", "Mul", "Sub", "Sum", "MatMul", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat"}
)
"""Operators whose second input is a tensor of the images too, at its plain place."""


def read_profile(profile: Path) -> list[Any]:
    """The events of a profile that ONNX Runtime wrote.

    Raises:
        InputError: no such file, or no profile.
    """
    events = read_json(profile)
    if not isinstance(events, list):
        raise InputError(f"{profile} is no ONNX Runtime profile: expected a list of events")
    return events


def kinds_that_ran(profile: Path) -> dict[str, int]:
    """Return how many nodes of each kind ran, all of them in integers on the CPU provider.

    Other operators (layout, casts, copies) differ from one processor to the next and are not
    counted.

    Args:
        profile: the JSON that ONNX Runtime wrote; a node that ran more than once counts once.

    Raises:
        InputError: no such profile, a node of these kinds in float, or another provider.
    """
    events = read_profile(profile)
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    in_float: list[str] = []
    for event in events:
        name = event.get("name") if isinstance(event, dict) else None
        if not isinstance(name, str) or not name.endswith(_SUFFIX) or event.get("cat") != "Node":
            continue
        if name in seen:
            continue
        seen.add(name)
        try:
            arguments: Mapping[str, Any] = event["args"]
            operator = str(arguments["op_name"]).rpartition(".")[2]
            provider = str(arguments["provider"])
            types = [str(next(iter(one))) for one in arguments["input_type_shape"]]
        except (KeyError, TypeError, StopIteration) as error:
            raise InputError(f"the profile's event {name!r} lacks {error}") from error
        node = name.removesuffix(_SUFFIX)
        if provider != _CPU:
            raise InputError(f"{node} ran on {provider}, not on {_CPU}")
        kind = KIND_OF.get(operator)
        if kind is None:
            continue
        data = types[:2] if operator in _BOTH_INPUTS else types[:1]
        if not data or not all("int" in one for one in data):
            in_float.append(f"{node} ({operator} of {', '.join(data) or 'nothing'})")
        counts[kind] += 1
    if in_float:
        raise InputError(
            f"{len(in_float)} of {sum(counts.values())} nodes that were promised in integers ran "
            f"in float: {', '.join(in_float[:5])}; this engine is not what the bundle was "
            "certified for"
        )
    if not counts["convolution"] + counts["matrix product"]:
        raise InputError("the profile has no convolution and no matrix product")
    return {kind: counts[kind] for kind in KINDS}


def check_against_certificate(ran: Mapping[str, int], certified: Mapping[str, Any]) -> None:
    """Compare what ran here with what ran in the lab.

    Raises:
        InputError: another number of integer nodes of a kind.
    """
    expected = dict(certified["kinds"])
    # Certificates from before gates and functions were counted do not name them.
    ran = {k: n for k, n in ran.items() if k in expected or k not in ("gate", "function")}
    if ran != expected:
        wanted = ", ".join(f"{count} × {kind}" for kind, count in sorted(expected.items()))
        came = ", ".join(f"{count} × {kind}" for kind, count in sorted(ran.items()))
        raise InputError(
            f"the engine ran {came}; the lab's certificate ({certified['engine']}, "
            f"{certified['machine']}) has {wanted}: it is another graph"
        )
