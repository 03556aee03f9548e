"""A stand-in for the CUDA driver that keeps "GPU" memory on the host: there is no GPU here.

It shows that the calls are well-formed, in order, and that everything is freed; it is not a run on
hardware, and nothing is claimed from it. Functions are real C callbacks, so that ctypes converts
the arguments as it would for the driver.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_char_p, c_int
from typing import Any

from deploy.tensorrt.cuda import _SIGNATURES

NO_DEVICE, INVALID = 100, 1
MESSAGES = {NO_DEVICE: b"no CUDA-capable device is detected", INVALID: b"invalid argument"}


class HostDriver:
    """Has every function of :data:`deploy.tensorrt.cuda._SIGNATURES` as an attribute.

    Attributes:
        live: what is allocated and not freed, by kind.
        launches: graphs launched.
        called: names of the functions called, in order.
        fails: functions that return an error, and which.
    """

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.live: dict[int, tuple[str, Any]] = {}
        self.launches = 0
        self.called: list[str] = []
        self.fails: dict[str, int] = {}
        self._recording: list[Callable[[], None]] | None = None
        self._last = 100
        for name, arguments in _SIGNATURES.items():
            setattr(self, name, ctypes.CFUNCTYPE(c_int, *arguments)(self._callback(name)))

    def _callback(self, name: str) -> Callable[..., int]:
        def called(*arguments: Any) -> int:
            self.called.append(name)
            if name in self.fails:
                return self.fails[name]
            action = getattr(self, f"_{name}", None)
            return 0 if action is None else (action(*arguments) or 0)

        return called

    def queue(self, action: Callable[[], None]) -> None:
        """What a kernel would be: runs now, or is recorded."""
        if self._recording is None:
            action()
        else:
            self._recording.append(action)

    def kinds_alive(self) -> list[str]:
        return sorted(kind for kind, _ in self.live.values())

    def _keep(self, kind: str, what: Any, handle: int | None = None) -> int:
        self._last += 1
        handle = self._last if handle is None else handle
        assert handle not in self.live
        self.live[handle] = (kind, what)
        return handle

    def _drop(self, kind: str, handle: int | None) -> int:
        found = self.live.pop(handle or 0, None)
        return 0 if found is not None and found[0] == kind else INVALID

    def _cuInit(self, flags: int) -> int:
        return 0 if self.devices else NO_DEVICE

    def _cuDeviceGetCount(self, count: Any) -> None:
        count[0] = self.devices

    def _cuDeviceGetName(self, name: bytes, size: int, device: int) -> None:
        # ctypes hands a char pointer over as bytes: the name stays empty here.
        assert size >= 16

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> None:
        value[0] = {75: 8, 76: 6}[attribute]

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> None:
        context[0] = self._keep("context", None, 7)

    def _cuDevicePrimaryCtxRelease_v2(self, device: int) -> int:
        return self._drop("context", 7)

    def _cuMemAlloc_v2(self, address: Any, size: int) -> None:
        memory = ctypes.create_string_buffer(size)
        address[0] = self._keep("memory", memory, ctypes.addressof(memory))

    def _cuMemFree_v2(self, address: int) -> int:
        return self._drop("memory", address)

    def _cuMemAllocHost_v2(self, address: Any, size: int) -> None:
        memory = ctypes.create_string_buffer(size)
        address[0] = self._keep("pinned", memory, ctypes.addressof(memory))

    def _cuMemFreeHost(self, address: int) -> int:
        return self._drop("pinned", address)

    def _cuMemcpyHtoDAsync_v2(self, to: int, source: int, size: int, stream: int) -> None:
        self._copy(to, source, size)

    def _cuMemcpyDtoHAsync_v2(self, to: int, source: int, size: int, stream: int) -> None:
        self._copy(to, source, size)

    def _copy(self, to: int, source: int, size: int) -> None:
        def copy() -> None:
            ctypes.memmove(to, source, size)

        self.queue(copy)

    def _cuStreamCreate(self, stream: Any, flags: int) -> None:
        stream[0] = self._keep("stream", None)

    def _cuStreamDestroy_v2(self, stream: int) -> int:
        return self._drop("stream", stream)

    def _cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:
        assert self._recording is None
        self._recording = []

    def _cuStreamEndCapture(self, stream: int, graph: Any) -> None:
        graph[0] = self._keep("graph", self._recording)
        self._recording = None

    def _cuGraphInstantiateWithFlags(self, executable: Any, graph: int, flags: int) -> None:
        executable[0] = self._keep("executable", self.live[graph][1])

    def _cuGraphDestroy(self, graph: int) -> int:
        return self._drop("graph", graph)

    def _cuGraphExecDestroy(self, executable: int) -> int:
        return self._drop("executable", executable)

    def _cuGraphLaunch(self, executable: int, stream: int) -> None:
        self.launches += 1
        for action in self.live[executable][1]:
            action()

    def _cuGetErrorString(self, code: int, text: Any) -> None:
        text[0] = c_char_p(MESSAGES.get(code, b"else"))
