"""What surrounds an engine on a GPU, against a stand-in driver; and the errors where there is none.

No engine runs here: that takes a GPU.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deploy.core.errors import EngineUnavailable, InputError, NothingToEvaluate, UsageError
from deploy.core.images import int8_codes
from deploy.tensorrt import cuda
from deploy.tensorrt import engine as engine_module
from deploy.tensorrt.batches import BatchRunner, Enqueue
from deploy.tensorrt.bindings import TENSORRT, Bindings, Log
from deploy.tensorrt.cuda import CudaError, Device
from deploy.tensorrt.engine import TensorRtEngine
from deploy.tensorrt.layers import EngineLayer
from tests.deploy.tensorrt.host_driver import HostDriver
from tests.deploy.tensorrt.qdq_files import changed, exported, uint8_zero_point

SHAPE, CLASSES = (3, 8, 8), 3
# Whole numbers: their float32 sums are exact, whatever the order.
WEIGHTS = np.random.default_rng(2).integers(-9, 10, (192, CLASSES)).astype(np.float32)


def logits_of(images: np.ndarray) -> np.ndarray:
    """What the stand-in for an engine computes."""
    codes = (images.astype(np.int16) - 128).reshape(len(images), -1)
    return codes.astype(np.float32) @ WEIGHTS


def images_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def view(address: int, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memory, kind).reshape(shape)


def compute(size: int, codes: int, logits: int) -> None:
    taken = view(codes, (size, 192), np.int8).astype(np.float32)
    view(logits, (size, CLASSES), np.float32)[:] = taken @ WEIGHTS


def runner_on(driver: HostDriver, **settings: Any) -> tuple[Device, BatchRunner, list[int]]:
    prepared: list[int] = []

    def prepare(size: int, codes: int, logits: int, stream: int) -> Enqueue:
        assert driver.live[stream][0] == "stream"
        prepared.append(size)
        return lambda: driver.queue(lambda: compute(size, codes, logits))

    device = Device(library=driver)
    given = {"image_shape": SHAPE, "classes": CLASSES, "least": 1, "largest": 16, **settings}
    return device, BatchRunner(device, prepare, **given), prepared


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 17, 40])
def test_any_number_of_images_gives_its_logits(graphs: bool, count: int) -> None:
    driver = HostDriver()
    device, runner, prepared = runner_on(driver, graphs=graphs)
    images = images_of(count)
    for _ in range(3):
        assert np.array_equal(runner.run(int8_codes(images)), logits_of(images))
    assert len(prepared) == len(set(prepared)), "each size is settled once"
    assert all(size & (size - 1) == 0 for size in prepared)
    assert (driver.launches > 0) == graphs
    device.close()
    assert driver.kinds_alive() == []


def test_a_size_is_run_once_before_it_is_recorded() -> None:
    driver = HostDriver()
    _, runner, _ = runner_on(driver)
    runner.run(int8_codes(images_of(4)))
    begin = driver.called.index("cuStreamBeginCapture_v2")
    assert driver.called[:begin].count("cuMemcpyHtoDAsync_v2") == 1
    assert driver.called[begin - 1] == "cuStreamSynchronize"


@pytest.mark.parametrize(
    ("least", "largest", "count", "size"),
    [(1, 64, 1, 1), (1, 64, 5, 8), (1, 48, 33, 48), (4, 64, 1, 4), (10, 10, 3, 10)],
)
def test_sizes_stay_within_what_was_built(least: int, largest: int, count: int, size: int) -> None:
    _, runner, _ = runner_on(HostDriver(), least=least, largest=largest)
    assert runner.size_for(count) == size


def test_without_a_device_or_a_driver_the_error_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(EngineUnavailable, match=r"no GPU can be used: .*cuInit failed with 100"):
        Device(library=HostDriver(devices=0))
    with pytest.raises(EngineUnavailable, match="GPU 3 was requested, but the driver has 2"):
        Device(3, library=HostDriver(devices=2))
    monkeypatch.setattr(cuda, "LIBRARY", "libno-such-driver.so.1")
    with pytest.raises(
        EngineUnavailable, match=r"no CUDA driver on this machine .*needs an NVIDIA GPU"
    ):
        Device()
    with pytest.raises(EngineUnavailable, match="has no cuInit, because it is older"):
        Device(library=SimpleNamespace())


@pytest.mark.parametrize(
    "call", ["cuMemcpyHtoDAsync_v2", "cuGraphInstantiateWithFlags", "cuStreamSynchronize"]
)
def test_a_failing_call_is_named_and_everything_is_freed(call: str) -> None:
    driver = HostDriver()
    device, runner, _ = runner_on(driver)
    driver.fails[call] = 1
    with pytest.raises(CudaError, match=f"{call} failed with 1: invalid argument"):
        runner.run(int8_codes(images_of(2)))
    device.close()
    assert driver.kinds_alive() == []


def test_a_failing_allocation_frees_what_came_before() -> None:
    driver = HostDriver()
    driver.fails["cuStreamCreate"] = 2
    with pytest.raises(EngineUnavailable, match="cuStreamCreate failed with 2"):
        Device(library=driver)
    assert driver.kinds_alive() == []


def test_codes_are_bytes_less_128() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(int8_codes(every), every.astype(np.int16) - 128)


class Context:
    """A stand-in for TensorRT's execution context, on the stand-in driver."""

    def __init__(self, driver: HostDriver) -> None:
        self.driver, self.size = driver, 0
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.size = shape[0]
        return name == "images" and shape[1:] == SHAPE

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in ("images", "logits")

    def execute_async_v3(self, stream: int) -> bool:
        size, (codes, logits) = self.size, self.addresses.values()
        self.driver.queue(lambda: compute(size, codes, logits))
        return True


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine's own code, with TensorRT and the driver replaced."""
    driver = HostDriver()
    types = SimpleNamespace(INT8="int8", FLOAT="float")
    log = Log()
    api = SimpleNamespace(DataType=types, Runtime=lambda logger: "a runtime")
    bindings = Bindings(flavour=TENSORRT, api=api, version="11.4", log=log, logger=None)
    contexts: list[Context] = []

    def context() -> Context:
        contexts.append(Context(driver))
        return contexts[-1]

    fake = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=["images", "logits"].__getitem__,
        get_tensor_dtype={"images": "int8", "logits": "float"}.__getitem__,
        create_execution_context=context,
    )
    layer = {"inputs": ("int8",), "weights": ("int8",), "outputs": ("int8",)}
    layers = tuple(
        EngineLayer(name=name, operator=operator, **layer)
        for name, operator in (("a", "CaskConvolution"), ("b", "CaskConvolution"), ("c", "gemm"))
    )
    facts = {"batch_sizes": [1, 16, 16], "options": {"version_compatible": False}}
    for name, value in {
        "load": lambda flavour: bindings,
        "Device": lambda gpu: Device(gpu, library=driver),
        "build_plan": lambda *_: (b"a plan", facts),
        "deserialised": lambda *_: fake,
        "inspected": lambda *_: layers,
    }.items():
        monkeypatch.setattr(engine_module, name, value)
    return SimpleNamespace(
        model=exported(tmp_path), driver=driver, contexts=contexts, fake=fake, log=log
    )


def test_the_engine_keeps_the_protocol(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    with TensorRtEngine(opened.model) as engine:
        assert (engine.name, engine.version, engine.classes) == ("tensorrt", "11.4", CLASSES)
        assert engine.input_shape == SHAPE and engine.batch_size is None
        assert engine.kinds_that_ran()["convolution"] == 2
        images = images_of(20)
        assert np.array_equal(engine.run(images), logits_of(images))
        assert np.array_equal(engine.predict(images, 7), logits_of(images).argmax(axis=1))
        wrongs: list[Any] = [
            images.astype(np.float32),
            images[:, :, :4],
            images.transpose(0, 2, 3, 1),
        ]
        for wrong in wrongs:
            with pytest.raises(InputError):
                engine.run(wrong)
        with pytest.raises(NothingToEvaluate):
            engine.run(images[:0])
        with pytest.raises(UsageError):
            engine.predict(images, 0)
    assert [record.message for record in caplog.records] == [f"tensorrt: {engine.note}"]
    assert engine.note.startswith("never run on hardware")
    assert opened.driver.kinds_alive() == []
    with pytest.raises(UsageError, match="closed"):
        engine.run(images)
    engine.close()


def test_a_failed_run_says_what_tensorrt_said(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with TensorRtEngine(opened.model) as engine:
        opened.log.take(1, "it overheated")
        monkeypatch.setattr(Context, "execute_async_v3", lambda *_: False)
        with pytest.raises(InputError, match=r"failed to run .*it overheated"):
            engine.run(images_of(2))
        monkeypatch.setattr(Context, "set_input_shape", lambda *_: False)
        with pytest.raises(InputError, match=r"in batches of 4: it overheated"):
            engine.run(images_of(4))


def test_an_engine_with_other_tensors_is_refused_and_all_is_freed(opened: Any) -> None:
    opened.fake.get_tensor_dtype = {"images": "float", "logits": "float"}.__getitem__
    with pytest.raises(InputError, match="built from another file"):
        TensorRtEngine(opened.model)
    assert opened.driver.kinds_alive() == []


def test_a_model_that_would_be_misread_is_refused_before_a_gpu_is_looked_for(
    opened: Any, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(changed(opened.model, uint8_zero_point))
    with pytest.raises(InputError, match="is uint8"):
        TensorRtEngine(broken)
    assert opened.driver.called == []
