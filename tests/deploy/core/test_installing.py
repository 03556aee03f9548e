"""The command that installs an extra, for each way that the project can have come here."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from deploy.core.installing import EXTRA_OF_MODULE, install_command, installed_from

ROOT = Path(__file__).resolve().parents[3]


class Installed:
    """A distribution of which pip wrote this direct_url.json."""

    def __init__(self, direct_url: object) -> None:
        self._text = None if direct_url is None else json.dumps(direct_url)

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._text


@pytest.mark.parametrize(
    ("direct_url", "command"),
    [
        (None, "pip install 'qadtr[train]'"),
        (
            {"url": "file:///opt/my%20code/qadtr", "dir_info": {"editable": True}},
            "pip install -e '/opt/my code/qadtr[train]'",
        ),
        ({"url": "file:///opt/qadtr", "dir_info": {}}, "pip install '/opt/qadtr[train]'"),
        (
            {"url": "file:///dist/qadtr-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'qadtr[train] @ file:///dist/qadtr-0.1.0-py3-none-any.whl'",
        ),
        (
            {"url": "https://example.org/q.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'qadtr[train] @ git+https://example.org/q.git@abc'",
        ),
    ],
)
def test_each_source(direct_url: object, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(direct_url))
    assert install_command("train") == command
    assert len(shlex.split(command)) in (3, 4)
    assert ("on no package index" in installed_from()) == (direct_url is not None)


def test_a_checkout_that_was_never_installed_is_installed_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert install_command("figures") == f"pip install -e '{ROOT}[figures]'"


@pytest.mark.slow
def test_pip_takes_the_command_as_it_is() -> None:
    words = shlex.split(install_command("sign"))
    more = ["--dry-run", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", *words, *more], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_extra_exists_and_every_package_of_the_extras_is_known() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(EXTRA_OF_MODULE.values()) <= set(extras)
    of_distribution = {
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "art": "adversarial-robustness-toolbox",
        "tensorrt_rtx_bindings": "tensorrt-rtx-cu13-bindings",
        "ai_edge_litert": "ai-edge-litert",
        "onnxruntime_ep_openvino": "onnxruntime-ep-openvino",
        "onnxruntime_qnn": "onnxruntime-qnn",
        "onnxruntime_ep_nv_tensorrt_rtx": "onnxruntime-ep-nv-tensorrt-rtx",
        "onnx_ir": "onnxscript",  # which brings it
    }
    for module, extra in EXTRA_OF_MODULE.items():
        names = [re.split(r"[^\w.-]", line)[0] for line in extras[extra]]
        assert of_distribution.get(module, module) in names, module
