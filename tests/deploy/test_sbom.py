"""The bill of materials beside a bundle."""

from __future__ import annotations

import json
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest

from deploy.bundle import write_bundle
from deploy.bundle_contents import BundleContents
from deploy.core.files import sha256_of
from deploy.device.bundle_reading import Bundle
from deploy.sbom import licence_of
from tests.deploy.device.conftest import contents

__all__ = ["contents"]  # a fixture


def test_it_lists_the_files_and_the_packages_and_no_clock(
    contents: BundleContents, tmp_path: Path
) -> None:
    out = tmp_path / "b.qbundle"
    texts = []
    for _ in range(2):
        digest = write_bundle(out, contents)
        texts.append((tmp_path / "b.qbundle.cdx.json").read_bytes())
    assert texts[0] == texts[1]
    bill = json.loads(texts[0])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["hashes"][0]["content"] == digest
    files = {one["name"]: one for one in bill["components"] if one["type"] != "library"}
    with Bundle(out) as bundle:
        for path in bundle.manifest.files:
            assert files[path]["hashes"][0]["content"] == sha256_of(bundle.file(path))
    assert {"manifest.json", "manifest.sha256"} == set(files) - set(bundle.manifest.files)
    assert files["models/onnxruntime-4.onnx"]["type"] == "machine-learning-model"
    libraries = {one["name"]: one for one in bill["components"] if one["type"] == "library"}
    assert libraries["numpy"]["version"] == metadata.version("numpy")
    assert libraries["numpy"]["purl"] == f"pkg:pypi/numpy@{metadata.version('numpy')}"
    assert libraries["onnxruntime"]["licenses"]
    references = [one["bom-ref"] for one in libraries.values()]
    assert len(set(references)) == len(references)


@pytest.mark.parametrize(
    ("headers", "licences"),
    [
        ([("License-Expression", "MIT")], [{"expression": "MIT"}]),
        (
            [("License-Expression", "BSD-3-Clause AND (MIT OR Zlib)")],
            [{"expression": "BSD-3-Clause AND (MIT OR Zlib)"}],
        ),
        (
            [("Classifier", "License :: OSI Approved :: MIT License"), ("License", "words")],
            [{"license": {"name": "MIT License"}}],
        ),
        ([("License", "BSD 3-Clause\n\nCopyright")], [{"license": {"name": "BSD 3-Clause"}}]),
        ([("License", "x" * 200)], []),
        ([], []),
    ],
)
def test_a_licence_is_what_the_package_declares(
    headers: list[tuple[str, str]], licences: list[dict[str, object]]
) -> None:
    about = Message()
    for name, value in headers:
        about.add_header(name, value)
    assert licence_of(about) == licences
