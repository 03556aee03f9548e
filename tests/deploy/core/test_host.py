from __future__ import annotations

import json

import pytest

from deploy.core.host import host_facts, host_from_cpuinfo

CORE_X86 = "processor\t: 0\nmodel\t\t: 143\nmodel name\t: Xeon Gold\nflags\t\t: fpu {}\n\n"
CORE_ARM = "processor\t: 0\nFeatures\t: fp asimd {}\nCPU part\t: 0xd0b\n\n"


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "sets", "saturates"),
    [
        (CORE_X86.format("avx2"), "x86_64", ("avx2",), True),
        (CORE_X86.format("avx2 avx512f"), "AMD64", ("avx2", "avx512f"), True),
        (CORE_X86.format("avx_vnni avx2"), "x86_64", ("avx2", "avx_vnni"), False),
        (CORE_X86.format("avx512_vnni"), "x86_64", ("avx512_vnni",), False),
        (None, "x86_64", None, True),
        (CORE_ARM.format("asimddp i8mm"), "aarch64", ("asimd", "asimddp", "i8mm"), False),
        (CORE_ARM.format("asimddp") + CORE_ARM.format(""), "aarch64", ("asimd",), False),
        (None, "arm64", None, False),
    ],
)
def test_instruction_sets_and_the_saturation_they_decide(
    cpuinfo: str | None, machine: str, sets: tuple[str, ...] | None, saturates: bool
) -> None:
    host = host_from_cpuinfo(cpuinfo, machine=machine, system="Linux", cores=2)
    assert host.instruction_sets == sets
    assert host.u8s8_saturates is saturates
    assert host.has("avx2") is ("avx2" in (sets or ()))


def test_the_name_of_the_processor() -> None:
    def named(cpuinfo: str) -> str | None:
        return host_from_cpuinfo(cpuinfo, machine="m", system="s", cores=1).cpu_model

    assert named(CORE_X86.format("")) == "Xeon Gold"
    assert named(CORE_ARM.format("") + "Model\t\t: Raspberry Pi 5 Model B\n") == (
        "Raspberry Pi 5 Model B"
    )
    assert named(CORE_ARM.format("")) is None
    assert named("") is None


@pytest.mark.parametrize(
    ("line", "machine", "emulated"),
    [
        ("cpuid level\t: 28\n", "aarch64", True),
        ("cpuid level\t: 28\n", "x86_64", False),
        ("cpuid level\t: 28\n", "i686", False),
        ("CPU implementer\t: 0x41\n", "x86_64", True),
        ("CPU implementer\t: 0x41\n", "armv7l", False),
        ("", "aarch64", False),
    ],
)
def test_an_emulated_processor_is_not_given_the_facts_of_the_one_below(
    line: str, machine: str, emulated: bool
) -> None:
    host = host_from_cpuinfo(
        CORE_X86.format("avx2") + line, machine=machine, system="Linux", cores=1
    )
    assert host.emulated is emulated
    assert (host.cpu_model, host.instruction_sets) == (
        (None, None) if emulated else ("Xeon Gold", ("avx2",))
    )
    assert host.as_record()["emulated"] is emulated


def test_this_machine() -> None:
    host = host_facts()
    assert host.cores >= 1
    assert host.machine
    assert json.loads(json.dumps(host.as_record()))["machine"] == host.machine
