"""HTML that cannot forget to escape: text becomes markup only through `tag`.

`Html` marks finished markup. Every other string that is given as a child or an attribute is
escaped, and control characters that a browser would act on are replaced (:func:`.text.printable`).
This module does not depend on the form of a report.
"""

from __future__ import annotations

import html as _html
from collections.abc import Iterable
from typing import Final

from .text import printable

_VOID: Final = frozenset({"br", "circle", "col", "img", "line", "meta", "path", "rect"})
_SVG: Final = frozenset({"circle", "line", "path", "rect"})


class Html(str):
    """Finished markup."""

    __slots__ = ()


Child = str | Iterable["Child"]


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """One element.

    Args:
        name: element name.
        children: text (escaped), `Html` (kept), or iterables of them.
        attributes: values are escaped; None and False leave the attribute out, True gives it no
            value. A trailing underscore is dropped (`class_`), others become dashes.
    """
    text = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        assert not children, f"<{name}> has no content"
        return Html(f"<{name}{text}{'/' if name in _SVG else ''}>")
    return Html(f"<{name}{text}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Children one after another, text escaped."""
    return Html("".join(_child(child) for child in children))


def _child(child: Child) -> str:
    if isinstance(child, Html):
        return str(child)
    if isinstance(child, str):
        return _html.escape(printable(child), quote=False)
    return "".join(_child(one) for one in child)


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{_html.escape(printable(shown))}"'
