"""The Python packages of TensorRT and TensorRT-RTX, and the messages in their logs.

Both have the same API; where 10, 11 and RTX differ, the code checks :attr:`Bindings.flavour` or the
major version. Networks are strongly typed throughout: 10 needs a flag for that, 11 and RTX support
nothing else and accept the flag.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any

from ..core.errors import EngineUnavailable
from ..core.installing import install_command
from ..core.text import one_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """One of the two products.

    Attributes:
        name: as ``--engine`` takes it.
        package: the distribution to install.
        install: how to install it.
        majors: major versions that this code was written for.
        rtx: whether it is TensorRT-RTX.
    """

    name: str
    package: str
    install: str
    majors: tuple[int, ...]
    rtx: bool


TENSORRT = Flavour(
    name="tensorrt",
    package="tensorrt",
    install="pip install tensorrt (it comes from NVIDIA's own index; choose the one for the CUDA "
    "version of your driver)",
    majors=(10, 11),
    rtx=False,
)
TENSORRT_RTX = Flavour(
    name="tensorrt-rtx",
    package="tensorrt-rtx-cu13-bindings",
    install=install_command("rtx"),
    majors=(1,),
    rtx=True,
)
FLAVOURS = {flavour.name: flavour for flavour in (TENSORRT, TENSORRT_RTX)}


class Log:
    """The messages of TensorRT since :meth:`clear`.

    Attributes:
        errors: its errors, in order.
        layers: the builder's listing of the plan's layers in the inspector's one-line form, which
            is logged at detailed profiling verbosity, with or without a GPU. None if there is none.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Delete all messages."""
        self.errors: list[str] = []
        self.layers: str | None = None

    def take(self, severity: Any, text: str) -> None:
        """Keep or forward one message. ``severity`` is TensorRT's, 0 the most severe."""
        level = int(severity)
        if level <= 1:
            self.errors.append(one_line(text))
        elif level == 2:
            logger.warning("%s", text)
        elif text.startswith("Layers:"):
            self.layers = text

    def last_errors(self) -> str:
        """The last three errors in one line, for the end of a sentence."""
        return "; ".join(self.errors[-3:]) or "its log gives no reason"


@dataclass(frozen=True, kw_only=True)
class Bindings:
    """An imported package.

    Attributes:
        flavour: the product.
        api: the module.
        version: such as "10.16.1.11".
        log: its messages.
        logger: the ``ILogger`` that feeds ``log``; the package requires it for every object.
    """

    flavour: Flavour
    api: Any
    version: str
    log: Log
    logger: Any


@functools.cache
def load(flavour: Flavour) -> Bindings:
    """Import a package, once in a process, because TensorRT keeps the first logger that it gets.

    Raises:
        EngineUnavailable: it is not installed, its libraries do not load, or this code does not
            know its version.
    """
    try:
        api: Any
        if flavour.rtx:
            import tensorrt_rtx_bindings

            api = tensorrt_rtx_bindings
        else:
            import tensorrt

            api = tensorrt
        version = str(api.__version__)
    except Exception as error:  # a damaged package may raise anything
        raise EngineUnavailable(
            f"the engine {flavour.name!r} needs the package {flavour.package} "
            f"({one_line(str(error))}); install it: {flavour.install}"
        ) from error
    if version.partition(".")[0] not in map(str, flavour.majors):
        raise EngineUnavailable(
            f"{flavour.package} {version} is installed, but this release of qadtr supports the "
            f"versions {' and '.join(map(str, flavour.majors))}"
        )
    log = Log()

    class Logger(api.ILogger):  # type: ignore[misc]
        """Forwards every message to the log."""

        def log(self, severity: Any, text: str) -> None:
            log.take(severity, text)

    return Bindings(flavour=flavour, api=api, version=version, log=log, logger=Logger())
