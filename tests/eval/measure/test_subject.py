"""A model is opened and described in one place, wherever it comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.core.errors import EngineUnavailable, InputError
from deploy.core.files import sha256_of
from deploy.core.records import write_record
from deploy.device.onnxruntime_engine import OnnxRuntimeEngine
from eval.attacks.predictions import predict
from eval.measure.subject import TORCH, Subject, subjects_of
from export.certificate import certify
from tests.export.integer_graphs import balance, random_images, residual_graph
from training.data import ImageSet
from training.prediction import SwitchableNetwork
from training.run_folder import RunFolder


def no_network() -> SwitchableNetwork:
    raise AssertionError("an engine needs no network")


def test_a_file_that_is_of_no_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    images = random_images(rng, 12, 8)
    file = balance(residual_graph(rng, size=8, bits=4), images, tmp_path / "model.onnx")
    subject = Subject(
        name="somebody's",
        network="unknown",
        defense="none",
        bit_width=8,
        checkpoint_sha256=None,
        engine="onnxruntime",
        file=file,
        records=tmp_path / "records",
        load_network=no_network,
    )
    with OnnxRuntimeEngine(file) as engine:
        expected = engine.predict(images)
    with subject.open(threads=2) as opened:
        assert np.array_equal(opened.predict(images), expected)
        facts = subject.facts(opened.name)
    assert (facts["engine"], facts["file"]) == ("onnxruntime-cpu", "model.onnx")
    assert (facts["file_sha256"], facts["certificate"]) == (sha256_of(file), None)
    with subject.as_network() as network, network.at(8):
        found = network(torch.from_numpy(images).float()).argmax(dim=1)
    assert np.array_equal(found.numpy(), expected)
    certificate = certify(file, images)
    write_record(subject.records, "certificate", certificate.to_json(), {})
    expected_facts = {"ok": certificate.ok, "counts": certificate.counts()}
    assert subject.facts("onnxruntime-cpu")["certificate"] == expected_facts


def run_folder(path: Path, *files: str) -> RunFolder:
    """A run of bit-widths 32, 8 and 4 with these exported files."""
    for name in files:
        (path / "export").mkdir(exist_ok=True)
        (path / "export" / name).touch()
    facts = {"name": "resnet8", "bit_widths": [32, 8, 4], "classes": 10, "input_size": 8}
    config = {"defense": {"name": "qat"}, "seed": 0}
    return RunFolder(path=path, sidecar={"network": facts, "config": config, "sha256": "0" * 64})


def test_which_bit_widths_are_exported(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "onnxruntime-8.onnx", "onnxruntime-32.onnx", "qcdq-4.onnx")
    assert [one.bit_width for one in subjects_of(run, "onnxruntime")] == [32, 8]
    (one,) = subjects_of(run, "openvino", [4])
    assert one.model_file == tmp_path / "export" / "qcdq-4.onnx"
    assert [one.bit_width for one in subjects_of(run, TORCH)] == [32, 8, 4]


@pytest.mark.parametrize(
    ("engine", "wanted", "words"),
    [
        ("onnxruntime", [4, 8], "at 4 bits (exported: 8); make it with: qadtr export RUN --bits 4"),
        ("openvino", None, "exported model (exported: none); make it with: qadtr export RUN "),
        ("openvino", [4], "qadtr export RUN --bits 4 --target qcdq"),
        ("onnxruntime", [], "has no exported model (exported: 8); make it with: qadtr export RUN"),
        (TORCH, [5], "has no bit-width 5; it has 32, 8, 4"),
    ],
)
def test_what_is_not_exported_and_how_to_make_it(
    engine: str, wanted: list[int] | None, words: str, tmp_path: Path
) -> None:
    run = run_folder(tmp_path, "onnxruntime-8.onnx")
    with pytest.raises(InputError) as refused:
        subjects_of(run, engine, wanted)
    assert words in str(refused.value).replace(str(tmp_path), "RUN")
    with pytest.raises(EngineUnavailable):
        subjects_of(run, "abacus", wanted)


def test_the_network_in_the_place_of_an_engine(
    tmp_path: Path, digit_network: SwitchableNetwork, held_out_digits: ImageSet
) -> None:
    (subject,) = subjects_of(run_folder(tmp_path), TORCH, [4])
    images = held_out_digits.images[:20]
    with subject.open(network=digit_network) as opened:
        assert opened.name == TORCH
        assert np.array_equal(opened.predict(images), predict(digit_network, images, 4))
    facts = subject.facts(TORCH)
    assert (facts["file"], facts["file_sha256"], facts["engine"]) == (None, None, TORCH)
    assert facts["engine_version"] == torch.__version__
    with pytest.raises(InputError, match="in torch is not an exported model"):
        subject.open_engine()
