"""The facts of the machine: architecture, processor, cores, and the instructions that matter."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

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
_ARM64 = ("aarch64", "arm64")

# A line of /proc/cpuinfo that the kernels of one family alone write.
_KERNELS = {"cpuid level": "x86", "cpu implementer": "arm"}

# Place in the auxiliary vector and bit of each, from the Linux kernel's uapi/asm/hwcap.h for arm64.
_ARM64_CAPABILITIES = {"asimd": (16, 1), "asimddp": (16, 20), "sve": (16, 22), "i8mm": (26, 13)}


@dataclass(frozen=True, kw_only=True)
class Host:
    """One machine.

    Attributes:
        machine: the architecture in the system's words, such as x86_64 or aarch64.
        system: such as Linux.
        cpu_model: the processor's own name, or None where the system does not report it.
        cores: logical cores that this process may use.
        instruction_sets: those of ``INSTRUCTION_SETS`` that the processor has, in that order;
            None where the system does not report them.
        emulated: whether the kernel below is of another architecture, so that an emulator
            (qemu-user) emulates this one; False where the system does not report it.
    """

    machine: str
    system: str
    cpu_model: str | None
    cores: int
    instruction_sets: tuple[str, ...] | None
    emulated: bool = False

    def has(self, instruction_set: str) -> bool:
        """Return whether the instruction set is known to be present."""
        return self.instruction_sets is not None and instruction_set in self.instruction_sets

    @property
    def u8s8_saturates(self) -> bool:
        """Whether products of uint8 and int8 may saturate in 16 bits; True where it is not known.

        They do on x86-64 without VNNI: ``vpmaddubsw`` adds two products in 16 bits. Only weights
        beyond ±64 can saturate.
        """
        if self.machine.lower() not in _X86_64:
            return False
        return not (self.has("avx_vnni") or self.has("avx512_vnni"))

    def as_record(self) -> dict[str, object]:
        """Return the facts as JSON values."""
        sets = self.instruction_sets
        return {**asdict(self), "instruction_sets": None if sets is None else list(sets)}


def host_from_cpuinfo(cpuinfo: str | None, *, machine: str, system: str, cores: int) -> Host:
    """Return the host that the text of ``/proc/cpuinfo`` describes; None where there is none."""
    model: str | None = None
    flags: set[str] | None = None
    kernel: str | None = None
    for line in (cpuinfo or "").splitlines():
        key, separator, value = line.partition(":")
        key, value = key.strip().lower(), value.strip()
        kernel = kernel or _KERNELS.get(key)
        if not separator or not value:
            continue
        # "model name" is x86's; Arm boards write "Model" or "Hardware" once, or nothing at all.
        if model is None and key in ("model name", "model", "hardware") and not value.isdigit():
            model = value
        if key in ("flags", "features"):
            # Cores may differ (big.LITTLE): what counts is what all of them have.
            found = set(value.split())
            flags = found if flags is None else flags & found
    emulated = kernel not in (None, _family(machine))
    if emulated:  # what was read describes the real processor, not the emulated one
        model = flags = None
    known = None if flags is None else tuple(name for name in INSTRUCTION_SETS if name in flags)
    return Host(
        machine=machine,
        system=system,
        cpu_model=model,
        cores=cores,
        instruction_sets=known,
        emulated=emulated,
    )


def host_facts() -> Host:
    """Return this machine's facts; those that the system does not report are None."""
    try:
        cpuinfo: str | None = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = None
    host = host_from_cpuinfo(
        cpuinfo, machine=platform.machine(), system=platform.system(), cores=usable_cores()
    )
    if host.instruction_sets is None and host.machine in _ARM64 and host.system == "Linux":
        return replace(host, instruction_sets=_arm64_instruction_sets())
    return host


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def peak_memory_bytes() -> int | None:
    """Return the peak memory of this process; None where the system does not report it."""
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


def _family(machine: str) -> str | None:
    name = machine.lower()
    if name in _X86_64 or re.fullmatch("i[3-6]86", name):
        return "x86"
    return "arm" if name in _ARM64 or name.startswith("arm") else None


def _arm64_instruction_sets() -> tuple[str, ...] | None:
    """The instruction sets in the auxiliary vector of this process, by which engines choose their
    kernels too."""
    try:
        import ctypes  # a Python without it can still validate

        getauxval = ctypes.CDLL(None).getauxval
    except (ImportError, OSError, AttributeError):
        return None
    getauxval.restype = ctypes.c_ulong
    getauxval.argtypes = (ctypes.c_ulong,)
    return tuple(
        name
        for name in INSTRUCTION_SETS
        if name in _ARM64_CAPABILITIES
        and getauxval(_ARM64_CAPABILITIES[name][0]) >> _ARM64_CAPABILITIES[name][1] & 1
    )
