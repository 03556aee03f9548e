"""Each planted fault is found in its own step and in no other; the steps sum to the drift."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from deploy.core.errors import InputError, NothingToEvaluate
from deploy.core.npz import npz_bytes
from deploy.core.patch_set import PatchSet
from deploy.core.statistics import mcnemar_exact, paired_difference
from deploy.device.manifest import PatchFacts
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from deploy.device.suite import Suite, SuitePatch
from eval.attacks.predictions import predict
from eval.measure.drift.attribution import StageOutcome, outcome_of, stage_facts, steps_between
from eval.measure.drift.bundle_drift import outcomes_at
from eval.measure.drift.chain import DeviceInputs, Stage, pasted, read_float_patches, run_chain
from eval.measure.drift.drift_record import StepFacts
from export.lowering import lower
from export.qonnx_from_network import write_qonnx
from export.reference import IntegerReference
from tests.export.integer_graphs import with_array
from tests.training.planned import last
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network

BITS = 4
N = 120
FIRST = 500
"""Index of the first image within its split."""

Bytes = NDArray[np.uint8]


def save_npz(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    path.write_bytes(npz_bytes(arrays))


def fields(count: int, seed: int) -> Bytes:
    """Smooth colour fields: classes differ from one to the next."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4))
    return np.kron(coarse, np.ones((1, 1, 8, 8))).astype(np.uint8)


class Lab:
    """A calibrated network, its exported file, and a suite on which it is always right."""

    def __init__(self, folder: Path) -> None:
        generator = torch.Generator().manual_seed(3)
        spec = NetworkSpec(name="resnet8", classes=6, input_size=32, bit_widths=(BITS,))
        self.network: Network = build_network(spec, generator)
        with torch.no_grad():
            self.network.set_bit_width(BITS)
            self.network(torch.from_numpy(fields(32, seed=1)).float())
            self.network.for_evaluation()
            # Classes in balance: an untrained network has a favourite.
            logits = self.network(torch.from_numpy(fields(200, seed=7)).float())
            last(self.network).bias.sub_(logits.mean(dim=0))
        self.file = lower(
            write_qonnx(self.network, BITS, folder / "q.onnx"), folder / "i.onnx"
        ).path
        images = fields(N, seed=2)
        clean = predict(self.network, images, BITS)
        rng = np.random.default_rng(4)
        patch_set = PatchSet(
            name="noise",
            kind="universal",
            patch=rng.integers(0, 256, (1, 3, 14, 14), dtype=np.uint8),
            mask=np.ones((14, 14), np.bool_),
            positions=rng.integers(0, 19, (N - 20, 2), dtype=np.int32),
            image_indices=np.arange(FIRST, FIRST + N - 20),
        )
        rows = np.arange(N - 20)
        facts = PatchFacts(
            name="noise",
            file="patches/patch-000.npz",
            gated=True,
            attack="noise",
            kind="universal",
            placement="random",
            target=None,
            source=None,
            seed=4,
            pasted_sha256="0" * 64,
        )
        lab = predict(self.network, patch_set.paste_on(images[rows]), BITS)
        self.suite = Suite(
            images=images,
            indices=np.arange(FIRST, FIRST + N),
            labels=clean,
            lab_clean=clean,
            patches=(SuitePatch(facts=facts, patch_set=patch_set, rows=rows, lab=lab),),
            classes=tuple(f"class {number}" for number in range(10)),
            manifest_sha256="0" * 64,
        )

    def chain(self, *, file: Path | None = None, engine: Any = None, **more: Any) -> list[Stage]:
        path = self.file if file is None else file
        with OnnxRuntimeEngine(path) as real:
            return list(
                run_chain(
                    self.suite,
                    network=self.network,
                    bits=BITS,
                    reference=IntegerReference(path),
                    engine=real if engine is None else engine(real),
                    **more,
                )
            )

    def steps(self, stages: list[Stage]) -> dict[str, StepFacts]:
        outcomes = outcomes_at(self.suite, stages, 0)
        rows = self.suite.patches[0].rows
        steps = steps_between(outcomes, self.suite.indices[rows], self.suite.labels[rows])
        rates = [Fraction(int(one.success.sum()), int(one.eligible.sum())) for one in outcomes]
        for step, before, after in zip(steps, rates[:-1], rates[1:], strict=True):
            assert step["asr_points"] == pytest.approx(float(100 * (after - before)), abs=1e-12)
        total = sum(step["asr_points"] for step in steps)
        assert total == pytest.approx(float(100 * (rates[-1] - rates[0])), abs=1e-12)
        return {step["name"]: step for step in steps}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The same sums on every machine: a tie that another order breaks is not a fault of a step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    made = Lab(tmp_path_factory.mktemp("lab"))
    assert len(np.unique(made.suite.labels)) >= 3
    won = made.suite.patches[0].lab != made.suite.labels[made.suite.patches[0].rows]
    assert 0.1 < won.mean() < 0.9
    return made


def found_in(steps: dict[str, StepFacts], stage: str) -> None:
    """Flips in that step alone, and every one of them named with its classes."""
    flipped = {name: step["flips_n"] for name, step in steps.items() if step["flips_n"]}
    assert list(flipped) == [stage]
    named = steps[stage]["flips"]
    assert len(named) == steps[stage]["flips_n"]
    for flip in named:
        assert flip["clean_flipped"] == (flip["clean_before"] != flip["clean_after"])
        assert flip["patched_flipped"] == (flip["patched_before"] != flip["patched_after"])
        assert flip["clean_flipped"] or flip["patched_flipped"]


def test_without_a_fault_no_step_changes_anything(lab: Lab) -> None:
    steps = lab.steps(lab.chain())
    assert list(steps) == ["rounding", "preprocessing", "export", "engine"]
    assert all(step["flips_n"] == 0 and step["asr_points"] == 0.0 for step in steps.values())
    assert [step["inputs_changed"] for step in steps.values()] == [0, 0, None, None]


def fed_through(preprocessing: Callable[[Bytes], Bytes], suite: Suite) -> DeviceInputs:
    return DeviceInputs(
        clean=preprocessing(suite.images),
        patched=tuple(preprocessing(pasted(suite, i)) for i in range(len(suite.patches))),
    )


@pytest.mark.parametrize(
    "fault",
    [
        lambda images: np.ascontiguousarray(images[:, ::-1]),  # BGR
        lambda images: np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(images.shape),
        lambda images: 255 - images,
    ],
    ids=["blue first", "channels last", "inverted"],
)
def test_a_preprocessing_fault(lab: Lab, fault: Callable[[Bytes], Bytes]) -> None:
    stages = lab.chain(device_inputs=fed_through(fault, lab.suite))
    steps = lab.steps(stages)
    found_in(steps, "preprocessing")
    patch = lab.suite.patches[0]
    before = predict(lab.network, pasted(lab.suite, 0), BITS)
    after = predict(lab.network, fault(pasted(lab.suite, 0)), BITS)
    flips = [one["index"] for one in steps["preprocessing"]["flips"] if one["patched_flipped"]]
    assert flips == patch.patch_set.image_indices[before != after].tolist()


def test_a_rounding_fault(lab: Lab, tmp_path: Path) -> None:
    # The bytes of a patch that nobody had clipped: what was over 255 came back from below.
    kept = lab.suite.patches[0].patch_set.patch
    floats = kept.astype(np.float32)
    floats[kept < 90] += 256.0
    save_npz(tmp_path / "floats.npz", {"patch-0": floats})
    given = read_float_patches(tmp_path / "floats.npz", lab.suite)
    steps = lab.steps(lab.chain(float_patches=given))
    found_in(steps, "rounding")
    assert steps["rounding"]["clean_flips_n"] == 0
    assert steps["rounding"]["inputs_changed"] == N - 20


def test_fractions_that_the_first_layer_rounds_anyway_change_nothing(lab: Lab) -> None:
    rng = np.random.default_rng(0)
    kept = lab.suite.patches[0].patch_set.patch
    floats = (kept + rng.uniform(-0.49, 0.49, kept.shape)).astype(np.float32)
    steps = lab.steps(lab.chain(float_patches={0: floats}))
    assert steps["rounding"]["inputs_changed"] == N - 20
    assert all(step["flips_n"] == 0 for step in steps.values())


def test_an_export_fault(lab: Lab, tmp_path: Path) -> None:
    (head,) = [node for node in onnx.load(lab.file).graph.node if node.op_type == "QGemm"]

    def one_weight(weights: NDArray[Any]) -> NDArray[Any]:
        # Of the class and channel where it matters most here; one integer of the file.
        weights[0, 0] = 127 if weights[0, 0] < 0 else -127
        return weights

    changed = with_array(lab.file, tmp_path / "changed.onnx", head.input[3], one_weight)
    found_in(lab.steps(lab.chain(file=changed)), "export")


def test_an_engine_fault(lab: Lab) -> None:
    class Perturbed:
        """The engine, with one class's logit a little too high."""

        def __init__(self, engine: OnnxRuntimeEngine) -> None:
            self.engine, self.name = engine, engine.name

        def predict(self, images: Bytes, batch_size: int = 64) -> NDArray[np.int64]:
            batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
            logits = np.concatenate([self.engine.run(batch) for batch in batches])
            logits[:, 2] += logits.std()
            return np.asarray(logits.argmax(axis=1), np.int64)

    found_in(lab.steps(lab.chain(engine=Perturbed)), "engine")


def test_two_faults_are_told_apart(lab: Lab, tmp_path: Path) -> None:
    def blue_first(images: Bytes) -> Bytes:
        return np.ascontiguousarray(images[:, ::-1])

    alone = lab.steps(lab.chain(device_inputs=fed_through(blue_first, lab.suite)))
    kept = lab.suite.patches[0].patch_set.patch
    floats = kept.astype(np.float32)
    floats[kept < 90] += 256.0
    both = lab.steps(
        lab.chain(device_inputs=fed_through(blue_first, lab.suite), float_patches={0: floats})
    )
    assert both["preprocessing"] == alone["preprocessing"] | {
        "paired": both["preprocessing"]["paired"]  # corrected for another family of tests
    }
    assert both["rounding"]["flips_n"] > 0
    assert both["export"]["flips_n"] == both["engine"]["flips_n"] == 0


# ------------------------------------------------------------------ by hand


def at(name: str, clean: list[int], patched: list[int], labels: list[int]) -> StageOutcome:
    return outcome_of(
        name,
        "by hand",
        clean=np.array(clean),
        patched=np.array(patched),
        labels=np.array(labels),
        target=None,
    )


def test_a_step_by_hand() -> None:
    labels = [0, 0, 1, 1, 2]
    before = at("lab", [0, 0, 1, 1, 0], [0, 1, 1, 0, 2], labels)  # 2 of 4
    after = at("export", [0, 0, 1, 0, 2], [1, 1, 1, 0, 2], labels)  # 2 of 4, another 4
    (step,) = steps_between([before, after], np.arange(10, 15), np.array(labels))
    assert step["asr_points"] == 0.0
    pair = step["paired"]
    assert pair is not None
    won = np.array([True, True, False]), np.array([False, True, False])
    difference, interval = paired_difference(*won)
    assert (pair["n"], pair["only_before"], pair["only_after"]) == (3, 0, 1)
    assert pair["points"] == 100 * difference
    assert (pair["low_points"], pair["high_points"]) == (100 * interval.low, 100 * interval.high)
    assert pair["p"] == pair["p_holm"] == mcnemar_exact(0, 1)
    assert [flip["index"] for flip in step["flips"]] == [10, 13, 14]
    assert step["flips"][1]["won_after"] is None
    assert (step["clean_flips_n"], step["patched_flips_n"]) == (2, 1)
    assert stage_facts(after)["asr"]["n"] == 4


def test_a_stage_at_which_no_image_counts_is_named() -> None:
    with pytest.raises(NothingToEvaluate, match="'preprocessing'"):
        at("preprocessing", [1, 1], [0, 0], [0, 0])
    with pytest.raises(InputError, match="two or more"):
        steps_between([at("lab", [0], [1], [0])], np.arange(1), np.array([0]))


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("patch-1", np.zeros((1, 3, 14, 14), np.float32), "an array 'patch-1'"),
        ("patch-0", np.zeros((1, 3, 14, 13), np.float32), "expected patch-0"),
        ("patch-0", np.zeros((1, 3, 14, 14), np.float64), "expected patch-0"),
        ("patch-0", np.full((1, 3, 14, 14), np.nan, np.float32), "finite"),
    ],
)
def test_float_patches_that_do_not_fit(
    name: str, array: NDArray[Any], said: str, lab: Lab, tmp_path: Path
) -> None:
    save_npz(tmp_path / "f.npz", {name: array})
    with pytest.raises(InputError, match=said):
        read_float_patches(tmp_path / "f.npz", lab.suite)


def test_device_inputs_are_read_back_and_checked(lab: Lab, tmp_path: Path) -> None:
    place = tmp_path / "inputs.npz"
    own = {"clean": lab.suite.images, "patched-0": pasted(lab.suite, 0)}
    save_npz(place, own)
    read = DeviceInputs.read(place, lab.suite)
    assert np.array_equal(read.patched[0], own["patched-0"])
    for wrong, said in (
        ({"clean": own["clean"]}, "has the arrays clean; expected clean, patched-0"),
        (own | {"clean": own["clean"][:-1]}, "has 119 images"),
        (own | {"clean": own["clean"].astype(np.float32)}, r"inputs\.npz, clean: .* as uint8"),
    ):
        save_npz(place, wrong)
        with pytest.raises(InputError, match=said):
            DeviceInputs.read(place, lab.suite)
