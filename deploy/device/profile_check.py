"""The nodes that one batch runs in ONNX Runtime, from its own profile, without the onnx package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.model_engine import run_all
from ..core.operator_kinds import KINDS, kind_of
from ..core.scratch import Scratch
from ..core.strict_json import read_json
from .gate import Check, Outcome
from .onnxruntime_engine import OnnxRuntimeEngine

INTEGER = "integer"
"""Name of the gate that asks for integers in every layer."""

UNTOLD = "this engine does not report what all other layers compute in"

_SUFFIX = "_kernel_time"
_CPU = "CPUExecutionProvider"
_BOTH_INPUTS = frozenset(
    {"Add", "Mul", "Sub", "Sum", "MatMul", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat"}
)
"""Operators whose second input is a tensor of the images too, at its plain place."""

_VALUES = {"Where": slice(1, 2), "QLinearConcat": slice(2, None, 3)}
"""Which inputs are tensors of the images, where that is not the first: QLinearConcat takes scale
and zero point of its output, and then a tensor, its scale and its zero point for each part."""


def read_profile(profile: Path) -> list[Any]:
    """The events of a profile that ONNX Runtime wrote.

    Raises:
        InputError: there is no such file, or it is not a profile.
    """
    events = read_json(profile)
    if not isinstance(events, list):
        raise InputError(f"{profile} is not an ONNX Runtime profile: expected a list of events")
    return events


@dataclass(frozen=True, kw_only=True)
class RanKinds:
    """How many nodes of each kind ran.

    Attributes:
        integer: by kind, those that read integers.
        in_float: by kind, the others.
        float_nodes: the others, in words.
        float_others: operators of none of these kinds (Pad, Softmax, …) that read floats; a
            QuantizeLinear does not count.
        rest_untold: whether the engine does not report operators of none of these kinds.
    """

    integer: Mapping[str, int]
    in_float: Mapping[str, int]
    float_nodes: tuple[str, ...]
    float_others: tuple[str, ...] = ()
    rest_untold: bool = False

    @property
    def words(self) -> str:
        """Such as "9 of 10 convolution, 1 of 1 matrix product, 2 others (Pad) in float"."""
        counts = [
            f"{n} of {n + self.integer[kind]} {kind}" for kind, n in self.in_float.items() if n
        ]
        if self.float_others:
            most = ", ".join(name for name, _ in Counter(self.float_others).most_common(3))
            counts.append(f"{len(self.float_others)} others ({most})")
        if counts:
            return f"{', '.join(counts)} in float"
        return UNTOLD if self.rest_untold else "all in integers"

    @property
    def nodes(self) -> int:
        """All of these kinds."""
        return sum(self.integer.values()) + len(self.float_nodes)

    @property
    def all_integer(self) -> bool:
        """Whether a layer ran and nothing ran in float; False where not everything is reported."""
        in_float = self.float_nodes or self.float_others
        return self._layers > 0 and not in_float and not self.rest_untold

    @property
    def _layers(self) -> int:
        return sum(self.integer.get(kind, 0) for kind in ("convolution", "matrix product"))

    @property
    def integer_share(self) -> float:
        """The share of integer nodes, 0…1; 0 where there are none."""
        return sum(self.integer.values()) / self.nodes if self.nodes else 0.0

    def require_integers(self) -> dict[str, int]:
        """Return how many nodes of each kind ran.

        Raises:
            InputError: a node of these kinds in float, or there is no layer.
        """
        if self.float_nodes:
            raise InputError(
                f"{len(self.float_nodes)} of {self.nodes} nodes that were promised in integers "
                f"ran in float: {', '.join(self.float_nodes[:5])}; this is not the engine that "
                "the bundle was certified for"
            )
        if not self._layers:
            raise InputError("the profile has no convolution and no matrix product")
        return dict(self.integer)


def profiled_run(file: Path, images: Any, *, threads: int = 1) -> RanKinds:
    """Run one batch with ONNX Runtime's profiler and return what ran, in integers and in float.

    Args:
        file: the model.
        images: uint8 N×3×H×W.
        threads: of the engine.
    """
    with Scratch() as folder:
        profile = folder / "profile.json"
        with OnnxRuntimeEngine(file, threads=threads, profile_to=profile) as engine:
            run_all(engine, images)
        return ran_kinds(profile)


def ran_kinds(profile: Path) -> RanKinds:
    """Return how many nodes of each kind ran, in what, all of them on the CPU provider.

    Other operators (layout, casts, copies) differ from one processor to the next and are not
    counted, nor is arithmetic of shapes.

    Args:
        profile: the JSON that ONNX Runtime wrote; a node that ran more than once counts once.

    Raises:
        InputError: there is no such profile, or a node ran on another provider.
    """
    events = read_profile(profile)
    counts: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    in_float: list[str] = []
    others: list[str] = []
    for event in events:
        name = event.get("name") if isinstance(event, dict) else None
        if not isinstance(name, str) or not name.endswith(_SUFFIX) or event.get("cat") != "Node":
            continue
        try:
            arguments: Mapping[str, Any] = event["args"]
            place = name, str(arguments.get("node_index"))  # two nodes may have one name
            if place in seen:
                continue
            seen.add(place)
            operator = str(arguments["op_name"]).rpartition(".")[2]
            provider = str(arguments["provider"])
            types = [str(next(iter(one))) for one in arguments["input_type_shape"]]
        except (AttributeError, KeyError, TypeError, StopIteration) as error:
            raise InputError(f"the profile's event {name!r} lacks {error}") from error
        node = name.removesuffix(_SUFFIX)
        if provider != _CPU:
            raise InputError(f"{node} ran on {provider}, not on {_CPU}")
        data = types[:2] if operator in _BOTH_INPUTS else types[:1]
        kind = kind_of(operator, data)
        if kind is None:
            values = types[_VALUES.get(operator, slice(1))]
            if operator != "QuantizeLinear" and any(map(_is_float, values)):
                others.append(operator)
            continue
        if data and all("int" in one for one in data):
            counts[kind] += 1
        else:
            floats[kind] += 1
            in_float.append(f"{node} ({operator} of {', '.join(data) or 'nothing'})")
    return RanKinds(
        integer={kind: counts[kind] for kind in KINDS},
        in_float={kind: floats[kind] for kind in KINDS},
        float_nodes=tuple(in_float),
        float_others=tuple(others),
    )


def _is_float(element: str) -> bool:
    return "float" in element or "double" in element


def integer_check(ran: RanKinds | None, words: str) -> Check:
    """Return the gate that every layer ran in integers.

    Args:
        ran: None where the engine does not report it, which does not pass.
        words: description of what ran.
    """
    passed = ran is not None and ran.all_integer
    return Check(
        name=INTEGER,
        outcome=Outcome.PASS if passed else Outcome.FAIL,
        threshold=1.0,
        observed=0.0 if ran is None else ran.integer_share,
        bounds=None,
        n=0 if ran is None else ran.nodes,
        reason=words
        if passed
        else f"not known to be an integer model: {words}"
        if ran is None or ran.rest_untold
        else f"not an integer model: {words}",
    )


def check_against_certificate(ran: Mapping[str, int], certified: Mapping[str, Any]) -> None:
    """Compare the nodes that ran here with those that ran in the lab.

    Raises:
        InputError: the number of integer nodes of a kind differs.
    """
    expected = dict(certified["kinds"])
    # Certificates from before gates and functions were counted do not name them.
    ran = {k: n for k, n in ran.items() if k in expected or k not in ("gate", "function")}
    if ran != expected:
        wanted = ", ".join(f"{count} × {kind}" for kind, count in sorted(expected.items()))
        came = ", ".join(f"{count} × {kind}" for kind, count in sorted(ran.items()))
        raise InputError(
            f"the engine ran {came}; the lab's certificate ({certified['engine']}, "
            f"{certified['machine']}) has {wanted}: the graph is another one"
        )
