"""The names of `qadtr`: few, documented, light to import, and each with an example that runs."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import qadtr
from qadtr import _HOMES

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
ORDER = (
    *("ImageSet", "quantize", "Refused", "Network", "calibrate", "RunFolder", "DefendedLoop"),
    *(
        "train",
        "load",
        "export",
        "lower",
        "adopt",
        "make_patches",
        "PatchSet",
        "evaluate",
        "adaptive",
    ),
    *("bundle", "validate", "report", "QadtrError"),
)
"""That of docs/api.md: an example goes on where those before it ended."""


def test_there_are_few_names_and_the_page_has_them_in_the_order_of_their_examples() -> None:
    names = [name for name in dir(qadtr) if not name.startswith("_")]
    assert len(names) <= 20
    assert sorted(ORDER) == sorted(names)
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)", page, re.MULTILINE) == list(ORDER)
    with pytest.raises(AttributeError, match=r"qadtr has no 'quantise'; it has .*ImageSet"):
        _ = qadtr.quantise


def test_every_function_says_what_it_takes_and_raises() -> None:
    for name in _HOMES:
        found = getattr(qadtr, name)
        assert found.__doc__, name
        if not inspect.isfunction(found):
            continue
        arguments = inspect.signature(found).parameters
        untold = [one for one in arguments if not re.search(rf"^ +{one}: ", found.__doc__, re.M)]
        assert not untold, (name, untold)
        assert all(one.annotation is not inspect.Parameter.empty for one in arguments.values())
        assert "Raises:" in found.__doc__ or name == "validate", name
        assert "Example:" in found.__doc__, name


def own_parts(name: str) -> list[Any]:
    """The object, and what a class of the project's has of its own."""
    found = getattr(qadtr, name)
    return [found, *(vars(found).values() if inspect.isclass(found) else ())]


def test_the_examples_run_in_the_order_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    known: dict[str, Any] = {"np": np, "nn": nn, "torch": torch, "qadtr": qadtr}
    ran = 0
    for name in ORDER:
        for part in own_parts(name):
            text = inspect.getdoc(getattr(part, "__func__", part)) or ""
            if ">>>" not in text:
                continue
            test = doctest.DocTestParser().get_doctest(text, known, name, None, None)
            out = io.StringIO()
            with contextlib.redirect_stderr(io.StringIO()):
                runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
                runner.run(test, out=out.write, clear_globs=False)
            assert runner.summarize(verbose=False).failed == 0, out.getvalue()
            known = test.globs
            ran += 1
    assert ran >= 15
