"""Run batches of images through an engine on the GPU: pinned memory, one stream, CUDA graphs.

The step that an engine queues is a function here, so that everything else is tested without one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .cuda import Device

Enqueue = Callable[[], None]
"""Queues one run of a batch with fixed size, memory and stream."""

PrepareBatch = Callable[[int, int, int, int], Enqueue]
"""Called with batch size, addresses of input and output on the GPU, and the stream's handle."""


class BatchRunner:
    """Runs batches of int8 images to float32 logits.

    A batch is padded to the next power of two (at least ``least``, at most ``largest``), so that
    there are few sizes. For each size, copy, run and copy back are recorded once as a CUDA graph,
    and later launched as a whole.

    Args:
        device: the GPU; what is allocated here is freed when it is closed.
        prepare: returns the function that runs one batch size.
        image_shape: (3, H, W).
        classes: logits per image.
        graphs: False queues each step every time, for engines that make their own graphs.
    """

    def __init__(
        self,
        device: Device,
        prepare: PrepareBatch,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        least: int,
        largest: int,
        graphs: bool = True,
    ) -> None:
        self._device, self._prepare, self._graphs = device, prepare, graphs
        self._image_bytes = int(np.prod(image_shape))
        self._classes, self._least, self._largest = classes, least, largest
        self._codes = device.pinned(self._image_bytes * largest)
        self._logits = device.pinned(4 * classes * largest)
        self._input = device.memory(self._image_bytes * largest)
        self._output = device.memory(4 * classes * largest)
        self._launch: dict[int, Callable[[], None]] = {}

    def run(self, codes: NDArray[np.int8]) -> NDArray[np.float32]:
        """Return the logits, float32 N×C, of codes int8 N×3×H×W, for any N of 1 or more.

        Raises:
            CudaError: a call of the driver failed.
        """
        self._device.use_here()
        parts = [
            self._run_one(codes[start : start + self._largest])
            for start in range(0, len(codes), self._largest)
        ]
        return np.concatenate(parts)

    def _run_one(self, codes: NDArray[np.int8]) -> NDArray[np.float32]:
        count = len(codes)
        size = self.size_for(count)
        used = count * self._image_bytes
        self._codes.data[:used] = np.ascontiguousarray(codes).view(np.uint8).reshape(-1)
        self._codes.data[used : size * self._image_bytes] = 0
        if size not in self._launch:
            self._launch[size] = self._first(size)
        self._launch[size]()
        self._device.synchronize()
        logits = self._logits.data[: 4 * self._classes * count].view(np.float32)
        return logits.reshape(count, self._classes).copy()

    def size_for(self, count: int) -> int:
        """The batch size with which ``count`` images run."""
        return min(self._largest, max(self._least, 1 << (count - 1).bit_length()))

    def _first(self, size: int) -> Callable[[], None]:
        enqueue = self._prepare(size, self._input, self._output, self._device.stream)

        def queue() -> None:
            self._device.to_gpu(self._input, self._codes, size * self._image_bytes)
            enqueue()
            self._device.to_host(self._logits, self._output, 4 * self._classes * size)

        if not self._graphs:
            return queue
        queue()  # not recorded: an engine selects its kernels in the first run of a size
        self._device.synchronize()
        with self._device.capture() as recorded:
            queue()
        return lambda: self._device.launch(recorded[0])
