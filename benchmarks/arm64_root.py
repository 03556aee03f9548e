"""An arm64 machine in a folder: Debian's arm64 Python, numpy, onnxruntime, LiteRT, qemu to run it.

``python -m benchmarks.arm64_root FOLDER`` makes it, or finds it whole and leaves it. Nothing of it
is installed on this machine: the packages are unpacked into the folder and run in a chroot. The
chroot is needed: outside of one onnxruntime reads this machine's ``/sys`` and crashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.records import ROOT

CONSTRAINTS = ROOT / "constraints.txt"

SUITE = "bookworm"
"""The Debian release whose Python is 3.11."""

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6")
WHEELS = ("numpy", "onnxruntime", "ai-edge-litert")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
QEMU = "qemu-aarch64-static"
PYTHON = "/usr/bin/python3.11"

PROCESSORS = {
    "cortex-a72": ["asimd"],
    "cortex-a76": ["asimd", "asimddp"],
    "max": ["asimd", "asimddp", "i8mm", "sve"],
}
"""Processors that qemu plays, and what they have of the instructions by which onnxruntime chooses
its integer kernels: none but Advanced SIMD, with dot products, with matrix products."""

RECIPE = 2
"""Counted up when the same packages must give another folder."""


class SetUpError(Exception):
    """The arm64 root cannot be made here; the text is one line that says what is missing."""


@dataclass(frozen=True)
class Arm64Root:
    """A whole root.

    Attributes:
        folder: on this machine.
    """

    folder: Path

    def command(self, words: Sequence[str], *, cpu: str | None = None) -> list[str]:
        """Return what runs the words inside; a path in them counts from the root.

        Args:
            words: program and arguments.
            cpu: the processor that qemu plays, such as "cortex-a72"; None for its largest. On an
                arm64 machine nothing is emulated and it must be None.
        """
        start = [*_chroot(), str(self.folder)]
        if is_arm64():
            return [*start, *words]
        return [*start, f"/usr/bin/{QEMU}", *([] if cpu is None else ["-cpu", cpu]), *words]

    def python(
        self, words: Sequence[str], *, cpu: str | None = None, timeout_s: float = 600.0
    ) -> subprocess.CompletedProcess[str]:
        """Run its Python with the words and return how it ended."""
        # The processor's facts as a Linux container shows them: those of the machine below.
        (self.folder / "proc").mkdir(parents=True, exist_ok=True)
        shutil.copyfile("/proc/cpuinfo", self.folder / "proc" / "cpuinfo")
        return subprocess.run(
            self.command([PYTHON, *words], cpu=cpu),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env={"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"},
        )


def arm64_root(cache: Path) -> Arm64Root:
    """Return the root in a folder of roots, made there if it is not.

    It is made beside its place and moved when it has run: what lies there is whole.

    Args:
        cache: made if missing. The root's own name tells the release and the versions in it.

    Raises:
        SetUpError: a tool, a right or a download is missing.
    """
    pins = _pins(WHEELS)
    whole = root_folder(cache)
    if not whole.is_dir():
        _require_tools()
        whole.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=whole.parent) as scratch:
            made = _make(Path(scratch))
            _require_running(made, pins)
            try:
                made.folder.rename(whole)
            except OSError:  # another process was faster
                if not whole.is_dir():
                    raise
    root = Arm64Root(whole)
    _require_running(root, pins)
    return root


def root_folder(cache: Path) -> Path:
    """Return where the whole root lies in a folder of roots: other versions, another name."""
    facts = json.dumps([RECIPE, SUITE, PACKAGES, _pins(WHEELS), PLATFORMS])
    # apt takes a relative path for one of its own folders.
    return cache.resolve() / f"root-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def _make(scratch: Path) -> Arm64Root:
    root = scratch / "root"
    for name in ("tmp", "proc", "bundles", "usr/bin"):
        (root / name).mkdir(parents=True)
    root.chmod(0o755)
    for package in _download(scratch / "arm64", "arm64", PACKAGES):
        _run(["dpkg", "-x", str(package), str(root)], "unpacking Debian's arm64 packages")
    if not is_arm64():
        shutil.copy(_qemu(scratch), root / "usr" / "bin" / QEMU)
    _run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"),
            *("--target", str(root / "usr/lib/python3/dist-packages")),
            *(word for name in PLATFORMS for word in ("--platform", name)),
            *("--implementation", "cp", "--python-version", "3.11", "--only-binary=:all:"),
            *("--constraint", str(CONSTRAINTS), *WHEELS),
        ],
        f"fetching the aarch64 wheels of {' and '.join(WHEELS)}",
    )
    return Arm64Root(root)


def _qemu(scratch: Path) -> Path:
    installed = shutil.which(QEMU)
    if installed is not None:
        return Path(installed)
    own = _run(["dpkg", "--print-architecture"], "asking dpkg for this architecture").strip()
    folder = scratch / "qemu"
    packages = _download(folder, own, ("qemu-user-static",), alone=True)
    _run(["dpkg", "-x", str(packages[0]), str(folder)], "unpacking qemu-user-static")
    return folder / "usr" / "bin" / QEMU


def _download(
    folder: Path, architecture: str, packages: Sequence[str], *, alone: bool = False
) -> list[Path]:
    """Fetch packages, and unless alone what they depend on, with lists of our own."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {SUITE} main\n")
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Debug::NoLocking": "true",
        "Dir::Cache::archives": folder / "archives",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
    }
    apt = ["apt-get", "--quiet", *(f"--option={key}={value}" for key, value in options.items())]
    _run([*apt, "--error-on=any", "update"], f"reading {SUITE}'s lists from {MIRROR}")
    what = f"fetching {', '.join(packages)} from {MIRROR}"
    if alone:
        _run([*apt, "download", *packages], what, cwd=folder / "archives")
    else:
        _run([*apt, "--yes", "--download-only", "install", *packages], what)
    return sorted((folder / "archives").glob("*.deb"))


def _require_tools() -> None:
    missing = [tool for tool in ("apt-get", "dpkg", "chroot") if _which(tool) is None]
    if missing:
        raise SetUpError(f"{', '.join(missing)} not found: it is made from Debian's packages")
    if not KEYRING.is_file():
        raise SetUpError(f"{KEYRING} not found: install debian-archive-keyring")
    if not sys.platform.startswith("linux"):
        raise SetUpError(f"it needs Linux, this is {sys.platform}")


def _chroot() -> list[str]:
    if os.geteuid() == 0:
        return ["chroot"]
    return ["unshare", "--user", "--map-root-user", "chroot"]


def _require_running(root: Arm64Root, pins: Mapping[str, str]) -> None:
    program = (
        "import json, platform, numpy, onnxruntime; print(json.dumps([platform.machine(), "
        "numpy.__version__, onnxruntime.__version__]))"
    )
    done = root.python(["-I", "-c", program])
    if done.returncode:
        hint = "" if os.geteuid() == 0 else " (chroot needs root, or user namespaces)"
        raise SetUpError(
            f"its Python does not run{hint}: exit code {done.returncode}, {_why(done)}; to have it "
            f"made again remove {root.folder}"
        )
    expected = ["aarch64", pins["numpy"], pins["onnxruntime"]]
    if json.loads(done.stdout) != expected:
        raise SetUpError(f"expected {expected} in {root.folder}, got {done.stdout.strip()}")


def _pins(packages: Sequence[str]) -> dict[str, str]:
    text = CONSTRAINTS.read_text(encoding="utf-8")
    pins = {}
    for package in packages:
        match = re.search(rf"^{re.escape(package)}==(\S+)$", text, re.MULTILINE)
        if match is None:
            raise SetUpError(f"constraints.txt has no version of {package}")
        pins[package] = match[1]
    return pins


def is_arm64() -> bool:
    """Return whether this machine is one itself, so that nothing needs to be emulated."""
    return platform.machine() in ("aarch64", "arm64")


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _run(words: Sequence[str], doing: str, *, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, cwd=cwd, timeout=900
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetUpError(f"{doing} failed: {' '.join(str(error).split())[:300]}") from error
    if done.returncode:
        raise SetUpError(f"{doing} failed: {_why(done)}")
    return done.stdout


def _why(done: subprocess.CompletedProcess[str]) -> str:
    """The first line that apt or pip calls an error, else the last line."""
    lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
    errors = [line for line in lines if line.startswith(("E:", "ERROR:"))]
    return (errors or lines[-1:])[0][:300]


def main(argv: Sequence[str]) -> int:
    """Make the root and name it, or say in one line why not."""
    if len(argv) != 1:
        print("usage: python -m benchmarks.arm64_root FOLDER", file=sys.stderr)
        return 4
    try:
        root = arm64_root(Path(argv[0]))
    except (SetUpError, OSError, subprocess.TimeoutExpired) as error:
        print(f"arm64 root: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(root.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
