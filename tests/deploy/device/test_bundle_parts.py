"""The parts under the validator: console, schema checker, archives, signatures, ONNX outputs."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.core.errors import InputError
from deploy.core.files import sha256_of_bytes
from deploy.core.json_schema import SchemaMismatch, check
from deploy.core.stored_zip import read_members, stored_zip_bytes
from deploy.device.bundle_reading import Bundle
from deploy.device.console import Console
from deploy.device.manifest import parse_manifest
from deploy.device.onnx_outputs import with_outputs
from deploy.device.report import empty_report, junit_xml
from deploy.device.signature import SignatureError, require_signature, sign
from tests.deploy.device.test_hostile_bundles import keys

NAMES = st.text("abcXYZ_.-/0", min_size=1, max_size=20)


class Terminal(io.StringIO):
    encoding = "ascii"

    def __init__(self, tty: bool) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


def test_a_bar_on_a_terminal_and_lines_elsewhere() -> None:
    out, err = Terminal(True), Terminal(True)
    console = Console(out, err)
    console.progress("images", 0, 10)
    console.progress("images", 10, 10)
    console.say("3×3")
    assert err.getvalue().endswith(f"\rimages [{'#' * 30}] 10/10\r\033[K")
    assert out.getvalue() == "3?3\n"  # a terminal of ASCII is not a reason to fail

    out, err = Terminal(False), Terminal(False)
    console = Console(out, err)
    for done in range(10):
        console.progress("images", done, 10)
    console.complain("line")
    assert err.getvalue() == "images: 0 of 10\nline\n"


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=5))
def test_an_archive_reads_back(files: dict[str, bytes]) -> None:
    data = stored_zip_bytes(files)
    members = read_members(io.BytesIO(data), len(data))
    assert {one.name: data[one.offset : one.offset + one.size] for one in members} == files


def test_no_byte_outside_the_contents_can_change_unseen() -> None:
    contents = {"a/b": b"first", "c": b"second"}
    data = stored_zip_bytes(contents)
    inside = set()
    for one in read_members(io.BytesIO(data), len(data)):
        inside |= set(range(one.offset, one.offset + one.size))
    for position in set(range(len(data))) - inside:
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            # A CRC or a name that fits in both places is for the hashes to find.
            try:
                members = read_members(io.BytesIO(bytes(changed)), len(changed))
            except ValueError:
                continue
            pytest.fail(f"byte {position}, bit {bit}: {members}")


@pytest.mark.parametrize(
    ("value", "schema", "fits"),
    [
        (1, {"type": "integer"}, True),
        (True, {"type": "integer"}, False),
        (1.0, {"type": "integer"}, False),
        (None, {"type": ["integer", "null"]}, True),
        (float("nan"), {"type": "number"}, False),
        (5, {"type": "number", "maximum": 4}, False),
        ("a\n", {"type": "string", "pattern": "^a$"}, False),
        ("abc", {"type": "string", "maxLength": 2}, False),
        (True, {"const": 1}, False),
        ([1, 1], {"type": "array", "uniqueItems": True}, False),
        ([1, "x"], {"type": "array", "items": {"type": "integer"}}, False),
        ({"a": 1}, {"type": "object", "additionalProperties": False}, False),
        ({}, {"type": "object", "required": ["a"]}, False),
        ({"B": 1}, {"type": "object", "propertyNames": {"pattern": "^[a-z]$"}}, False),
        ({"a": {"b": 1}}, {"$ref": "#/$defs/x", "$defs": {"x": {"type": "object"}}}, True),
    ],
)
def test_schema_keywords(value: Any, schema: dict[str, Any], fits: bool) -> None:
    if fits:
        check(value, schema)
    else:
        with pytest.raises(SchemaMismatch):
            check(value, schema)


def test_a_keyword_that_is_not_known_is_not_ignored() -> None:
    with pytest.raises(KeyError, match="oneOf"):
        check(1, {"oneOf": []})


def test_the_manifest_reader_says_what_is_wrong(files: dict[str, bytes]) -> None:
    good = json.loads(files["manifest.json"])
    for change, said in (
        ({"format": "other"}, "does not describe"),
        ({"format_version": 2}, "format version '2', but this validator reads 1"),
        ({"bit_width": True}, "bit_width: expected integer"),
        ({"surprise": 1}, "'surprise' is an unknown field"),
        ({"images": good["images"] | {"file": "images/none.npz"}}, "does not list"),
        ({"patches": good["patches"] * 2}, "two patches have the same name"),
    ):
        with pytest.raises(InputError, match=said):
            parse_manifest(json.dumps(good | change).encode())
    with pytest.raises(InputError, match="at most"):
        parse_manifest(b" " * (9 << 20))


def test_signatures(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    signature = sign(b"manifest", private)
    assert sign(b"manifest", private) == signature
    require_signature(b"manifest", signature, public)
    for data, given_ in ((b"Manifest", signature), (b"manifest", bytes(64)), (b"manifest", b"")):
        with pytest.raises(SignatureError):
            require_signature(data, given_, public)
    with pytest.raises(InputError, match="not a readable private key"):
        sign(b"manifest", public)
    with pytest.raises(InputError, match="not a readable public key"):
        require_signature(b"manifest", signature, private)


def test_a_stranger_cannot_sign(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir()
    private, _ = keys(tmp_path / "mine")
    _, public = keys(tmp_path / "theirs")
    with pytest.raises(SignatureError, match="someone else"):
        require_signature(b"manifest", sign(b"manifest", private), public)


def test_sha256sum_reads_the_checksums(
    files: dict[str, bytes], save_folder: Callable[..., Path]
) -> None:
    folder = save_folder(files)
    subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=folder, check=True, timeout=20)
    with Bundle(folder) as bundle:
        assert bundle.authentication == "unauthenticated"
        assert bundle.folder != folder  # a copy: the bytes that were hashed
        assert bundle.file("validate.pyz").read_bytes() == files["validate.pyz"]
        with pytest.raises(InputError, match="does not list"):
            bundle.file("../other")


def test_a_pinned_bundle_is_that_one_alone(
    files: dict[str, bytes], save_folder: Callable[..., Path]
) -> None:
    folder = save_folder(files)
    own = sha256_of_bytes(files["manifest.json"])
    with Bundle(folder, pinned_sha256=own) as bundle:
        assert bundle.authentication == "pinned by its manifest's SHA-256"
    with pytest.raises(InputError, match=f"not the pinned bundle.*{own}, expected 00"):
        Bundle(folder, pinned_sha256="0" * 64)


def test_outputs_are_added_as_onnx_reads_them(integer_onnx: Path) -> None:
    model = onnx.load_from_string(with_outputs(integer_onnx.read_bytes(), ["codes", "pooled"]))
    assert [one.name for one in model.graph.output] == ["logits", "codes", "pooled"]
    assert model.graph.output[1].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert model.graph.node == onnx.load(integer_onnx).graph.node


def test_junit_survives_any_text() -> None:
    report = empty_report("bad\x00\ud800<&>")
    report["steps"].append({"name": "a", "ok": False, "seconds": 0.1, "error": "\x1b[31m"})
    assert b"bad??&lt;&amp;&gt;" in junit_xml(report)
