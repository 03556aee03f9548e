"""Execution providers that come as separate packages, for any onnxruntime from 1.23 on."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from .core.errors import EngineUnavailable
from .core.installing import install_command
from .core.text import one_line

_registered: set[str] = set()
"""Providers whose library this process has loaded; a second time is an error there."""


class FromPlugin:
    """Mixin before :class:`.device.onnxruntime_engine.OnnxRuntimeEngine`: a provider's package.

    A loaded plug-in offers no device where its hardware is missing, and ONNX Runtime would continue
    without it; that is an error here.

    Attributes:
        package: the module, which has ``get_library_path()``.
        extra: of this project, that installs it.
        device: "CPU" or "GPU", the kind of device that is asked of the plug-in.
        hardware: what it runs on, in words.
    """

    package: ClassVar[str]
    extra: ClassVar[str]
    device: ClassVar[str]
    hardware: ClassVar[str]
    name: str

    def _attached(self, ort: Any, options: Any, wanted: str) -> dict[str, Any]:
        load_plugin(
            ort,
            wanted,
            self.package,
            name=f"the engine {self.name!r}",
            extra=self.extra,
            needs=self.hardware,
        )
        kind = getattr(ort.OrtHardwareDeviceType, self.device)
        there = ort.get_ep_devices()
        chosen = [one for one in there if one.ep_name == wanted and one.device.type == kind]
        if not chosen:
            seen = ", ".join(sorted({_device_name(one) for one in there}))
            raise EngineUnavailable(
                f"the engine {self.name!r} needs {self.hardware}; {self.package} is installed "
                f"but finds none on this machine (ONNX Runtime sees: {seen})"
            )
        options.add_provider_for_devices(chosen[:1], self._provider_options())
        return {}

    def _provider_options(self) -> dict[str, str]:
        return {}


def load_plugin(ort: Any, provider: str, package: str, *, name: str, extra: str, needs: str) -> Any:
    """Load a plug-in's library into ``ort``, once a process, and return its package.

    Args:
        ort: the module onnxruntime.
        provider: the plug-in's provider, in ONNX Runtime's name.
        package: the module, which has ``get_library_path()``.
        name: who asks, for errors.
        extra: of this project, that installs it.
        needs: what it runs on, in words.

    Raises:
        EngineUnavailable: an onnxruntime without plug-ins, no such package, or it does not load.
    """
    register = getattr(ort, "register_execution_provider_library", None)
    if register is None:
        raise EngineUnavailable(
            f"{name} needs onnxruntime 1.23 or later, which supports plug-ins, but "
            f"{ort.__version__} is installed; upgrade it: pip install --upgrade onnxruntime"
        )
    try:
        module = importlib.import_module(package)
        library = module.get_library_path()
    except (ImportError, OSError) as error:
        raise EngineUnavailable(
            f"{name} needs the package {package.replace('_', '-')} "
            f"({one_line(str(error))}); install it: {install_command(extra)}"
        ) from error
    if provider in _registered:
        return module
    try:
        register(provider, library)
    # onnxruntime's exceptions have no public base class below Exception.
    except Exception as error:
        raise EngineUnavailable(
            f"{name} needs {needs}; the library of {package} does not load on this machine: "
            f"{one_line(str(error))}"
        ) from error
    _registered.add(provider)
    return module


def _device_name(found: Any) -> str:
    kind = str(found.device.type).rpartition(".")[2]
    return f"{found.device.vendor or 'unknown'} {kind} in {found.ep_name}"
