"""What the machine is: architecture, processor, cores, and the instructions that matter."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

# Those that decide which integer kernels an engine picks; x86 first, then Arm.
INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)

_X86_64 = ("x86_64", "amd64")


@dataclass(frozen=True, kw_only=True)
class Host:
    """One machine.

    Attributes:
        machine: the architecture in the system's words, such as x86_64 or aarch64.
        system: such as Linux.
        cpu_model: the processor's own name, or None where the system does not tell.
        cores: logical cores that this process may use.
        instruction_sets: those of ``INSTRUCTION_SETS`` that the processor has, in that order;
            None where the system does not tell.
    """

    machine: str
    system: str
    cpu_model: str | None
    cores: int
    instruction_sets: tuple[str, ...] | None

    def has(self, instruction_set: str) -> bool:
        """Return whether the instruction set is known to be there."""
        return self.instruction_sets is not None and instruction_set in self.instruction_sets

    @property
    def u8s8_saturates(self) -> bool:
        """Whether products of uint8 and int8 may saturate in 16 bits, or it is not known.

        So on x86-64 without VNNI: ``vpmaddubsw`` adds two products in 16 bits. Only weights
        beyond ±64 can get there.
        """
        if self.machine.lower() not in _X86_64:
            return False
        return not (self.has("avx_vnni") or self.has("avx512_vnni"))

    def as_record(self) -> dict[str, object]:
        """Return the facts as JSON values."""
        sets = self.instruction_sets
        return {
            "machine": self.machine,
            "system": self.system,
            "cpu_model": self.cpu_model,
            "cores": self.cores,
            "instruction_sets": None if sets is None else list(sets),
        }


def host_from_cpuinfo(cpuinfo: str | None, *, machine: str, system: str, cores: int) -> Host:
    """Return the host that the text of ``/proc/cpuinfo`` describes; None where there is none."""
    model: str | None = None
    flags: set[str] | None = None
    for line in (cpuinfo or "").splitlines():
        key, separator, value = line.partition(":")
        key, value = key.strip().lower(), value.strip()
        if not separator or not value:
            continue
        # "model name" is x86's; Arm boards write "Model" or "Hardware" once, or nothing at all.
        if model is None and key in ("model name", "model", "hardware") and not value.isdigit():
            model = value
        if key in ("flags", "features"):
            # Cores may differ (big.LITTLE): what counts is what all of them have.
            found = set(value.split())
            flags = found if flags is None else flags & found
    known = None if flags is None else tuple(name for name in INSTRUCTION_SETS if name in flags)
    return Host(
        machine=machine, system=system, cpu_model=model, cores=cores, instruction_sets=known
    )


def host_facts() -> Host:
    """Return this machine's facts; what the system does not tell is None."""
    try:
        cpuinfo: str | None = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = None
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return host_from_cpuinfo(
        cpuinfo, machine=platform.machine(), system=platform.system(), cores=cores
    )


def peak_memory_bytes() -> int | None:
    """Return the most memory that this process ever held; None where the system does not tell."""
    try:
        # Not getrusage where there is a choice: Linux starts its count at the parent's memory.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource  # not on every system
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
