"""The command that installs what is missing, for the copy of the project that runs here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAME = "qadtr"

EXTRA_OF_MODULE: Mapping[str, str] = {
    "torch": "train",
    "brevitas": "train",
    "safetensors": "train",
    "PIL": "train",
    "sklearn": "train",
    "tqdm": "train",
    "tensorboard": "train",
    "pydantic": "train",
    "typing_extensions": "train",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "onnxoptimizer": "export",
    "qonnx": "export",
    "ml_dtypes": "export",
    "onnxruntime": "cpu",
    "art": "eval",
    "multiprocess": "eval",
    "ray": "cluster",
    "ai_edge_litert": "litert",
    "openvino": "openvino",
    "onnxruntime_ep_openvino": "openvino-ep",
    "onnxruntime_qnn": "qnn",
    "onnxruntime_ep_nv_tensorrt_rtx": "rtx-ep",
    "tensorrt_rtx_bindings": "rtx",
    "matplotlib": "figures",
    "shtab": "completion",
    "playwright": "browser",
    "cryptography": "sign",
}
"""The extra that brings a package, by the name that is imported."""


def install_command(extra: str) -> str:
    """Return the command that adds an extra of the project to this environment.

    The project need not be on a package index: where it was installed from a folder, a wheel file
    or a repository, the command names that.
    """
    source = _source()
    if source is None:
        return f"pip install {shlex.quote(f'{NAME}[{extra}]')}"
    url, editable = source
    if url.startswith("file://") and not url.endswith((".whl", ".gz", ".zip")):
        option = "-e " if editable else ""
        return f"pip install {option}{shlex.quote(f'{_folder(url)}[{extra}]')}"
    return f"pip install {shlex.quote(f'{NAME}[{extra}] @ {url}')}"


def installed_from() -> str:
    """Return in words where this copy was installed from."""
    source = _source()
    if source is None:
        return (
            "from a package index or a folder of wheels; if pip finds no qadtr, clone its "
            "repository and run pip install '.[EXTRA]' in the clone"
        )
    url, editable = source
    place = _folder(url) if url.startswith("file://") else url
    words = f"{place}, editable" if editable else place
    return f"from {words}; qadtr is on no package index, so its extras are installed from there too"


def _source() -> tuple[str, bool] | None:
    """The URL that this copy was installed from, and whether it is editable (PEP 610); for one that
    runs from a checkout without being installed, the checkout's. None for one from an index."""
    try:
        text = metadata.distribution(NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        root = Path(__file__).resolve().parents[2]
        return (root.as_uri(), True) if (root / "pyproject.toml").is_file() else None
    if not text:
        return None
    found = json.loads(text)
    url = str(found["url"])
    vcs = found.get("vcs_info")
    if vcs is not None:
        return f"{vcs['vcs']}+{url}@{vcs['commit_id']}", False
    return url, bool(found.get("dir_info", {}).get("editable"))


def _folder(url: str) -> str:
    return unquote(urlsplit(url).path)
