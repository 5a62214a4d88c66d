"""A page in one file: no script, no font, no picture from elsewhere; every text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #222; background: #fff;
       max-width: 1040px; margin: 2rem auto 4rem; padding: 0 1.2rem }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; padding-top: .6rem; border-top: 1px solid #d9d9d9 }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem }
p { margin: .4rem 0 .8rem; max-width: 75ch }
.sub, .note { color: #555; font-size: .88rem }
.said { font-size: 1.08rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; margin: .6rem 0 }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid #e8e8e8; vertical-align: top }
th { font-weight: 600; border-bottom: 2px solid #bbb; vertical-align: bottom }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
table.numbers td { white-space: nowrap }
table.words td, table.words th { text-align: left }
td small { color: #666; white-space: nowrap }
table.words td small { white-space: normal }
ul.warnings { background: #fff6e5; border-left: 4px solid #e69f00; padding: .7rem 1rem .7rem 2rem; margin: 1rem 0 }
ul.warnings li { margin: .2rem 0 }
figure { margin: .6rem 0 1rem }
figure svg { max-width: 100%; height: auto }
dt { font-weight: 600; margin-top: .5rem }
dd { margin: 0 0 .2rem; max-width: 75ch }
details summary { cursor: pointer; color: #0072b2 }
@media print { body { margin: 0; max-width: none } h2 { break-after: avoid } figure, table { break-inside: avoid } }
"""


class Html(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


def text(value: str) -> Html:
    """Return a value as markup: escaped, unless it is markup."""
    return value if isinstance(value, Html) else Html(escape(value))


def element(tag: str, content: str, css: str = "") -> Html:
    """Return one element around a text or markup."""
    mark = f' class="{css}"' if css else ""
    return Html(f"<{tag}{mark}>{text(content)}</{tag}>")


def join(parts: Iterable[str]) -> Html:
    """Return parts one after the other."""
    return Html("\n".join(text(part) for part in parts))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], of: Literal["numbers", "words"] = "numbers") -> Html:
    """Return a table; the first column is left aligned, the others right and on one line, or left if they hold words.

    Args:
        header: one text or markup per column.
        rows: of cells.
        of: what the cells hold.
    """
    head = Html("".join(element("th", cell) for cell in header))
    body = join(element("tr", Html("".join(element("td", cell) for cell in row))) for row in rows)
    whole = f'<table class="{of}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'
    return element("div", Html(whole), "wide")


def with_small(value: str, small: str) -> Html:
    """Return a value and what stands small beneath it."""
    return Html(f"{text(value)}<br><small>{text(small)}</small>") if small else text(value)


def figure(drawn: str) -> Html:
    """Return an `<svg>` element as a figure."""
    return element("figure", Html(drawn))


def section(title: str, *parts: str) -> Html:
    """Return a heading and what stands under it."""
    return element("section", join([element("h2", title), *parts]))


def page(title: str, parts: Iterable[str]) -> str:
    """Return the whole document."""
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += f"<title>{escape(title)}</title>\n<style>{STYLE}</style>"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{join(parts)}\n</body>\n</html>\n'
