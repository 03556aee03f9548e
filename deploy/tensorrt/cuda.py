"""The CUDA driver through ctypes, with only the calls that running an engine needs.

This is the driver's own library, not the CUDA runtime or cuda-python. It is present wherever a GPU
can be used, works with any CUDA version, and shares its primary context with TensorRT
(docs/decisions/cuda-driver.md). Versioned symbols are those that cuda.h maps the names to.

Reference: CUDA Driver API; signatures checked against cuda.h of CUDA 13.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.errors import EngineUnavailable, InputError
from ..core.text import one_line

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_COMPUTE_MAJOR, _COMPUTE_MINOR = 75, 76
_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_ulonglong), c_size_t),
    "cuMemFree_v2": (c_ulonglong,),
    "cuMemAllocHost_v2": (POINTER(c_void_p), c_size_t),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_ulonglong, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_ulonglong, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}


class CudaError(InputError):
    """A call of the CUDA driver failed; the text names the call and the driver's reason."""


class PinnedBuffer(NamedTuple):
    """Pinned host memory, which the GPU copies directly from and to: the address of its first byte,
    and its bytes (uint8), which must not be used after :meth:`Device.close`.
    """

    address: int
    data: NDArray[np.uint8]


class Device:
    """One GPU: its primary context, a stream, and all allocations, which are freed together.

    Args:
        ordinal: which GPU.
        library: the driver; loaded from the system where None.

    Attributes:
        name: the GPU's name.
        compute_capability: such as "8.6".
        stream: handle of its stream.

    Raises:
        EngineUnavailable: no driver, or no such GPU.
    """

    def __init__(self, ordinal: int = 0, *, library: Any = None) -> None:
        self._library = _driver() if library is None else library
        self._undo: list[Callable[[], None]] = []
        self._set_signatures()
        try:
            self._open(ordinal)
        except CudaError as error:
            self.close()
            raise EngineUnavailable(f"no GPU can be used: {error}") from error

    def _open(self, ordinal: int) -> None:
        self._call("cuInit", 0)
        count, device, context, stream = c_int(), c_int(), c_void_p(), c_void_p()
        self._call("cuDeviceGetCount", byref(count))
        if not 0 <= ordinal < count.value:
            raise CudaError(f"GPU {ordinal} was requested, but the driver has {count.value}")
        self._call("cuDeviceGet", byref(device), ordinal)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        self.name = name.value.decode("utf-8", "replace")
        major, minor = c_int(), c_int()
        self._call("cuDeviceGetAttribute", byref(major), _COMPUTE_MAJOR, device)
        self._call("cuDeviceGetAttribute", byref(minor), _COMPUTE_MINOR, device)
        self.compute_capability = f"{major.value}.{minor.value}"
        self._call("cuDevicePrimaryCtxRetain", byref(context), device)
        self._undo.append(lambda: self._call("cuDevicePrimaryCtxRelease_v2", device))
        self._context = context
        self.use_here()
        self._call("cuStreamCreate", byref(stream), _NON_BLOCKING)
        self._undo.append(lambda: self._call("cuStreamDestroy_v2", stream))
        self.stream = int(stream.value or 0)

    def _set_signatures(self) -> None:
        for name, arguments in _SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise EngineUnavailable(
                    f"the CUDA driver has no {name}, because it is older than CUDA 12; "
                    "install a newer one"
                ) from error
            function.argtypes, function.restype = arguments, c_int

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            told = c_char_p()
            self._library.cuGetErrorString(code, byref(told))
            reason = (told.value or b"no reason given").decode("utf-8", "replace")
            raise CudaError(f"the CUDA driver's {name} failed with {code}: {reason}")

    def pinned(self, size_bytes: int) -> PinnedBuffer:
        """Allocate pinned host memory."""
        address = c_void_p()
        self._call("cuMemAllocHost_v2", byref(address), size_bytes)
        self._undo.append(lambda: self._call("cuMemFreeHost", address))
        place = int(address.value or 0)
        memory = (ctypes.c_uint8 * size_bytes).from_address(place)
        return PinnedBuffer(place, np.ctypeslib.as_array(memory))

    def memory(self, size_bytes: int) -> int:
        """Allocate memory of the GPU and return its address."""
        address = c_ulonglong()
        self._call("cuMemAlloc_v2", byref(address), size_bytes)
        self._undo.append(lambda: self._call("cuMemFree_v2", address))
        return address.value

    def to_gpu(self, address: int, buffer: PinnedBuffer, size_bytes: int) -> None:
        """Queue a copy to the GPU."""
        self._call("cuMemcpyHtoDAsync_v2", address, buffer.address, size_bytes, self.stream)

    def to_host(self, buffer: PinnedBuffer, address: int, size_bytes: int) -> None:
        """Queue a copy from the GPU."""
        self._call("cuMemcpyDtoHAsync_v2", buffer.address, address, size_bytes, self.stream)

    def synchronize(self) -> None:
        """Wait for everything queued."""
        self._call("cuStreamSynchronize", self.stream)

    def use_here(self) -> None:
        """Make its context current in this thread; a new thread has none."""
        self._call("cuCtxSetCurrent", self._context)

    @contextmanager
    def capture(self) -> Iterator[list[int]]:
        """Record what is queued inside; afterwards the list holds one handle for :meth:`launch`."""
        executable: list[int] = []
        graph, handle = c_void_p(), c_void_p()
        self._call("cuStreamBeginCapture_v2", self.stream, _CAPTURE_THREAD_LOCAL)
        try:
            yield executable
        finally:
            self._call("cuStreamEndCapture", self.stream, byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", byref(handle), graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        self._undo.append(lambda: self._call("cuGraphExecDestroy", handle))
        executable.append(int(handle.value or 0))

    def launch(self, graph: int) -> None:
        """Queue a recorded graph."""
        self._call("cuGraphLaunch", graph, self.stream)

    def close(self) -> None:
        """Free everything, the latest first; a second call is not an error."""
        while self._undo:
            with suppress(CudaError):  # a lost GPU frees nothing; the other calls are still tried
                self._undo.pop()()


def _driver() -> Any:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise EngineUnavailable(
            f"there is no CUDA driver on this machine ({one_line(str(error))}): running a "
            "TensorRT engine needs an NVIDIA GPU and its driver; building one with TensorRT-RTX "
            "needs neither"
        ) from error
