"""HTML in a few lines: every text is escaped unless it was built here, so hostile audit data stays text."""

import html
from collections.abc import Iterable


class Html(str):
    """Markup that was built by `tag`; a plain `str` is text and gets escaped."""

    __slots__ = ()


def tag(name: str, /, *children: str | Html | Iterable[Html] | None, **attributes: str | None) -> Html:
    """Return `<name ...>children</name>`; attributes: `class_` reads `class`, `http_equiv` reads `http-equiv`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def void(name: str, /, **attributes: str) -> Html:
    """Return an element without content, closed in itself, as both HTML and SVG read it."""
    return Html(tag(name, **attributes).removesuffix(f"></{name}>") + "/>")


def join(*children: str | Html | Iterable[Html] | None) -> Html:
    """Return the children one after the other; None is nothing."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(printable(child)))
        elif child is not None:
            parts.extend(child)
    return Html("".join(parts))


def printable(text: str) -> str:
    """Return the text with control and direction characters shown as codes: they could hide or reorder what is read."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)
