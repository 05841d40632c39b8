"""HTML made of elements: text is escaped wherever it is not HTML already."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

VOID = frozenset({"img", "meta", "br"})
UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""What HTML cannot hold, or turns the numbers after it round."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | None
Value = str | int | float | bool | None


def element(tag: str, *children: Child, **attributes: Value) -> Html:
    """An element; children that are plain text are escaped, and attributes always are.

    Args:
        tag: its name.
        children: text or `Html`; None is left out.
        attributes: `class_` is class, `aria_label` aria-label; True stands alone, None and False are left out.

    Example:
        >>> element("p", "a < b", class_="note")
        '<p class="note">a &lt; b</p>'
    """
    told = "".join(_attribute(name, value) for name, value in attributes.items() if value is not None)
    if tag in VOID:
        return Html(f"<{tag}{told}>")
    return Html(f"<{tag}{told}>{joined(children)}</{tag}>")


def joined(children: Iterable[Child]) -> Html:
    """Several pieces as one, each escaped where it is not HTML."""
    return Html("".join(escaped(child) for child in children if child is not None))


def escaped(text: str) -> Html:
    """`text` as HTML: itself where it is that already. Characters of `UNFIT` are replaced."""
    if isinstance(text, Html):
        return text
    return Html(html.escape(UNFIT.sub("\ufffd", text), quote=True))


def name(text: str) -> Html:
    """A name from a file, whose letters' direction changes nothing around it."""
    return element("bdi", text)


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    caption: str,
    numbers: frozenset[str] = frozenset(),
    strong: frozenset[int] = frozenset(),
    class_: str = "scroll",
) -> Html:
    """A table that scrolls within itself; the first cell of a row heads it.

    Args:
        heads: of the columns.
        rows: their cells.
        caption: what it is, above it.
        numbers: heads of the columns that are set flush right.
        strong: rows that are set bold.
        class_: of the box around it.
    """
    top = element("tr", *(element("th", head, scope="col", class_=_right(head, numbers)) for head in heads))
    lines = [
        element(
            "tr",
            element("th", cells[0], scope="row"),
            *(
                element("td", cell, class_=_right(head, numbers))
                for head, cell in zip(heads[1:], cells[1:], strict=True)
            ),
            class_="strong" if place in strong else None,
        )
        for place, cells in enumerate(rows)
    ]
    head = element("thead", top) if any(heads) else None
    return scrolling(element("table", head, element("tbody", *lines)), caption, class_)


def scrolling(inside: Html, caption: str, class_: str = "scroll") -> Html:
    """Something wide in a box that scrolls, and what it is above the box, where it does not scroll away."""
    box = element("div", inside, class_=class_, tabindex=0, role="region", aria_label=caption)
    return joined([element("p", caption, class_="caption"), box])


def _right(head: str, numbers: frozenset[str]) -> str | None:
    return "number" if head in numbers else None


def _attribute(name: str, value: Value) -> str:
    if value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return f' {name}="{escaped(number(value) if isinstance(value, int | float) else str(value))}"'


def number(value: float) -> str:
    """A coordinate in at most two decimals.

    Example:
        >>> number(3), number(2.5), number(-0.001)
        ('3', '2.5', '0')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return "0" if text == "-0" else text
