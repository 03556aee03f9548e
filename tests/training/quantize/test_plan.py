"""The plan as data: a round trip, and one clear error for each kind of damage."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from deploy.core.errors import InputError
from tests.training.quantize.networks import NETWORKS, SIZE, network, plan_module
from training.network_spec import NetworkSpec
from training.networks import NETWORKS as NAMED
from training.networks import float_network
from training.quantize import Network, Plan
from training.quantize.build import planned
from training.quantize.plan import Codes
from training.quantize.plan_file import read_plan

EXAMPLE = torch.zeros(1, 3, SIZE, SIZE)
Entries = list[dict[str, Any]]


def written(plan: Plan) -> Entries:
    entries: Entries = json.loads(json.dumps(plan.to_json()))
    return entries


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_is_read_as_it_was_written(name: str) -> None:
    plan = plan_module(network(name), EXAMPLE, mean=[0.5, 0.4, 0.3], std=[0.2] * 3).plan
    assert read_plan(written(plan), "here") == plan


@pytest.mark.parametrize("name", sorted(NAMED))
def test_the_plans_of_the_projects_networks_are_read_as_they_were_written(name: str) -> None:
    spec = NetworkSpec(name=name, classes=7, input_size=32, bit_widths=(8,))
    module = float_network(spec.name, classes=spec.classes, image_size=spec.image_size)
    plan = planned(module, spec).plan
    assert read_plan(written(plan), "here") == plan
    assert (plan.input_shape, plan.classes) == ((3, 32, 32), 7)


def test_steps_by_name_and_their_readers() -> None:
    plan = plan_module(network("gated"), EXAMPLE).plan
    assert plan.step("conv").kind == "convolution"
    assert [one.name for one in plan.readers("average_pool")] == ["down"]
    assert [one.name for one in plan.readers("stem_norm.silu")] == ["conv.enter", "add"]
    with pytest.raises(KeyError):
        plan.step("nowhere")


def entries_of(name: str) -> Entries:
    return written(plan_module(network(name), EXAMPLE).plan)


def step_of(entries: Entries, kind: str) -> dict[str, Any]:
    return next(one for one in entries if one["kind"] == kind)


def drop(kind: str, key: str) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        entry = step_of(entries, kind)
        for place in (entry, entry["attributes"], entry["codes"]):
            if key in place:
                del place[key]

    return change


def put(kind: str, /, **values: Any) -> Callable[[Entries], None]:
    return lambda entries: step_of(entries, kind).update(values)


def attribute(kind: str, /, **values: Any) -> Callable[[Entries], None]:
    return lambda entries: step_of(entries, kind)["attributes"].update(values)


def code(kind: str, /, **values: Any) -> Callable[[Entries], None]:
    return lambda entries: step_of(entries, kind)["codes"].update(values)


def widened_map(entries: Entries) -> None:
    found = [one for one in entries if one["attributes"].get("weights") == "map"]
    found[0]["attributes"]["kernel"] = [3, 3]


DAMAGE: dict[str, tuple[str, Callable[[Entries], None], str]] = {
    "no word of a rectifier": ("classical", drop("convolution", "rectified"), "rectified"),
    "no ceiling": ("classical", drop("convolution", "ceiling"), "ceiling"),
    "no epsilon": ("gated", drop("convolution", "epsilon"), "BatchNorm has no epsilon"),
    # what a step is
    "no kind": ("dense", drop("concat", "kind"), r": the key 'kind' is missing"),
    "another kind": (
        "dense",
        put("concat", kind="sum"),
        r"kind must be one of pixels, convolution",
    ),
    "no name": ("dense", put("concat", name=""), r"name: String should have at least 1"),
    "a name that is a number": ("dense", put("concat", name=3), r"name must be text; got 3"),
    "inputs that are text": ("dense", put("concat", inputs="stem"), r"inputs must be a list"),
    "no shape": ("dense", put("concat", shape=[]), r"shape must be a list of at least 1"),
    "a shape of nothing": ("dense", put("concat", shape=[0, 11, 11]), r"1; got 0"),
    "a shape of fractions": ("dense", put("concat", shape=[1.5, 1, 1]), r"whole number"),
    "an unknown key": ("dense", put("concat", colour=1), r"unknown key 'colour'"),
    "codes that are a list": ("dense", put("concat", codes=[1]), r"codes must be a table"),
    "codes without a sign": ("dense", drop("concat", "signed"), r"'codes\.signed' is missing"),
    "pooled from below": ("dense", code("concat", pooled=-1), r"pooled must be at least 0"),
    # attributes
    "no kernel": (
        "dense",
        drop("convolution", "kernel"),
        r", 'stem': the key 'kernel' is missing",
    ),
    "a kernel of three": ("dense", attribute("convolution", kernel=[3, 3, 3]), r"'stem': kernel"),
    "no stride": (
        "dense",
        attribute("convolution", stride=[0, 1]),
        r"greater than or equal to 1; got 0",
    ),
    "padding from below": (
        "dense",
        attribute("convolution", padding=[-1, 0, 0, 0]),
        r"equal to 0; got -1",
    ),
    "weights of an unknown kind": ("dense", attribute("convolution", weights="thin"), r"switched"),
    "a ceiling below 0": ("dense", attribute("convolution", ceiling=-6.0), r"ceiling .*above 0"),
    "an unknown attribute": ("dense", attribute("pixels", mean=0.5), r"unknown key 'mean'"),
    "a function that does not exist": (
        "gated",
        attribute("table", expression=["sin", "x"]),
        r"expression of x",
    ),
    "text that would run": (
        "gated",
        attribute("table", expression="__import__('os')"),
        r"expression of x",
    ),
    # what it reads
    "an input that is nowhere": (
        "dense",
        put("concat", inputs=["stem", "no"]),
        r"it reads 'no' before",
    ),
    "an input that comes later": (
        "dense",
        put("convolution", inputs=["linear"]),
        r"before it is computed",
    ),
    "a name twice": ("dense", put("concat", name="stem"), r"its name occurs twice"),
    "a sum of three": ("gated", put("add", inputs=["gate"] * 3), r"expected 2 inputs, got 3"),
    "a concatenation of nothing": ("dense", put("concat", inputs=[]), r"expected 1 inputs, got 0"),
    # shapes
    "another shape": (
        "dense",
        put("convolution", shape=[6, 10, 11]),
        r"expected the shape \(6, 11, 11\)",
    ),
    "channels that are not there": (
        "dense",
        attribute("convolution", channels=[4, 6]),
        r"do not fit",
    ),
    "groups that do not divide": ("dense", attribute("convolution", groups=2), r"do not fit"),
    "a kernel larger than the map": (
        "dense",
        attribute("convolution", kernel=[99, 3]),
        r"shape \(6, 0",
    ),
    "a slice beyond the channels": ("dense", attribute("slice", stop=99), r"do not fit"),
    "a slice backwards": ("dense", attribute("slice", start=4), r"do not fit"),
    "another number of elements": (
        "shuffled",
        attribute("reshape", shape=[2, 4, 9, 9]),
        r"do not fit",
    ),
    "a dimension twice": ("shuffled", attribute("transpose", order=[0, 1, 1, 3, 4]), r"do not fit"),
    "a moved batch": ("shuffled", attribute("transpose", order=[1, 0, 2, 3, 4]), r"do not fit"),
    "another factor": ("shuffled", attribute("upsample", factor=[3, 2]), r"expected the shape"),
    "another border": ("classical", attribute("pad", amounts=[1, 1, 1, 1]), r"expected the shape"),
    "a window of padding": (
        "shuffled",
        attribute("max pool", padding=[3, 1, 1, 1]),
        r"covers only padding",
    ),
    "features that are not there": ("dense", attribute("linear", features=9), r"do not fit"),
    "other classes": ("dense", attribute("linear", classes=9), r"expected the shape \(9,\)"),
    "a gate of other channels": ("gated", put("gate", inputs=["conv", "down"]), r"do not fit"),
    "a map with a kernel": ("preactivated", widened_map, r"do not fit"),
    # codes
    "no codes": ("dense", put("concat", codes=None), r"codes of every step but the last"),
    "codes of logits": (
        "dense",
        put("linear", codes={"scale": "a", "signed": True, "wide": True, "pooled": 0}),
        r"every step but the last",
    ),
    "unsigned pixels": ("dense", code("pixels", signed=False), r"do not fit those that it reads"),
    "a scale that is the image's": (
        "dense",
        code("convolution", scale="image"),
        r"do not fit those",
    ),
    "a signed gate": ("gated", code("convolution", scale="gate"), r"do not fit those"),
    "summands of other scales": ("gated", code("add", scale="other"), r"do not fit those"),
    "joined scales": ("dense", code("concat", scale="other"), r"do not fit those"),
    "a product of another scale": ("gated", code("gate", scale="other"), r"do not fit those"),
    "codes that change as they move": (
        "shuffled",
        code("max pool", signed=True),
        r"do not fit those",
    ),
    "an entry at 8 bits": ("dense", code("requantize", wide=True), r"do not fit those"),
    "an entry of another scale": ("dense", code("requantize", scale="other"), r"do not fit those"),
    "an average of other positions": (
        "gated",
        code("average pool", pooled=35),
        r"do not fit those",
    ),
    "a pooled convolution": ("gated", code("convolution", pooled=4), r"do not fit those"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_plan_is_refused(case: str) -> None:
    name, change, said = DAMAGE[case]
    entries = entries_of(name)
    damaged = copy.deepcopy(entries)
    change(damaged)
    assert damaged != entries
    with pytest.raises(InputError, match=rf"(?s)^sidecar: plan: step \d+.*{said}"):
        read_plan(damaged, "sidecar: plan")


def test_one_scale_of_two_widths_is_refused() -> None:
    entries = entries_of("classical")
    convolutions = [one for one in entries if one["kind"] == "convolution"]
    assert [one["codes"]["wide"] for one in convolutions] == [False, False, True]
    convolutions[2]["codes"]["scale"] = convolutions[1]["codes"]["scale"]
    with pytest.raises(InputError, match=r"is shared by 8-bit codes and others"):
        read_plan(entries, "plan")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "expected a list of steps, got None"),
        ([], r"expected a list of steps, got \[\]"),
        ({"steps": []}, "expected a list of steps"),
        (["stem"], "step 0: expected a table, got stem"),
    ],
)
def test_what_is_no_plan_is_refused(value: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_plan(value, "plan")


def test_the_ends_are_pixels_and_a_linear_layer() -> None:
    entries = entries_of("classical")
    for wrong in (entries[:-1], entries[:1], [*entries[:1], {**entries[0], "name": "other"}]):
        with pytest.raises(
            InputError, match="one step of pixels, as the first, and one linear, as the last"
        ):
            read_plan(wrong, "plan")


def test_every_damaged_number_is_refused_or_gives_a_network_that_runs() -> None:
    """Each number of each attribute and shape, one more: no other error than the one."""
    spec = NetworkSpec(name="own", classes=5, input_size=SIZE, bit_widths=(32, 4))
    refused = 0
    for name in ("shuffled", "gated"):
        entries = entries_of(name)
        for index, entry in enumerate(entries):
            for key, value in entry["attributes"].items():
                for place in (
                    range(len(value)) if isinstance(value, list) and key != "expression" else ()
                ):
                    changed = copy.deepcopy(entries)
                    changed[index]["attributes"][key][place] += 1
                    try:
                        plan = read_plan(changed, "plan")
                    except InputError:
                        refused += 1
                        continue
                    built = Network(spec, plan).for_evaluation()
                    with torch.no_grad():
                        assert built(torch.zeros(1, *plan.input_shape)).shape == (1, 5)
    assert refused > 50


def test_codes_and_steps_are_checked_where_they_are_made() -> None:
    with pytest.raises(InputError, match="scale must be text; got 1"):
        Codes(scale=1, signed=True, wide=True)  # type: ignore[arg-type]
