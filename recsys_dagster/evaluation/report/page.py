"""The page around the sections, and small pieces of markup: escaping, tables, lists.

Functions named `..._html` return markup that is safe to join; every text that goes in passes through `text`. The page
is one file that refers to nothing outside itself. Its content security policy allows the one style sheet and the one
script in it, by their sha256, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from string import Template

from recsys_dagster.evaluation.report.charts import N_SERIES

SCRIPTS = ("camera.js", "map.js", "panel.js")
"""Parts of the script, in their order."""


def text(value: object) -> str:
    """Any value as text that is safe inside an element or a quoted attribute.

    >>> text('<b>"x" & y</b>')
    '&lt;b&gt;&quot;x&quot; &amp; y&lt;/b&gt;'
    """
    return html.escape(str(value), quote=True)


def json_text(value: object) -> str:
    """A value as JSON that is safe inside a script element: no character of it can end the element.

    >>> json_text({"title": "</script>"})
    '{"title":"\\\\u003c/script\\\\u003e"}'
    """
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return plain


def page_html(
    title: str, sections: Mapping[str, str], introduction: str = "", hues: Sequence[int] = (), data: object = None
) -> str:
    """The whole page.

    Args:
        title: plain text of the title.
        sections: plain text of each heading, and its markup; empty ones are left out.
        introduction: markup above the first section.
        hues: the hue in degrees of each class ``h0``, ``h1``, ...
        data: what the script reads; a page without it has no script.
    """
    there = {heading: body for heading, body in sections.items() if body}
    links = "".join(f'<a href="#{anchor(heading)}">{text(heading)}</a>' for heading in there)
    parts = "\n".join(
        f'<section id="{anchor(heading)}"><h2>{text(heading)}</h2>\n{body}\n</section>'
        for heading, body in there.items()
    )
    style = static_text("page.css") + "".join(f".h{number}{{--hue:{hue}}}\n" for number, hue in enumerate(hues))
    style += "".join(f".s{i}{{stroke:var(--s{i})}} .f{i}{{fill:var(--s{i})}}\n" for i in range(N_SERIES))
    script = "" if data is None else '"use strict";\n(() => {\n' + "\n".join(map(static_text, SCRIPTS)) + "\n})();"
    policy = f"default-src 'none'; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    policy += "" if data is None else f"; script-src {_hash(script)}"
    return Template(static_text("page.html")).substitute(
        policy=policy,
        title=text(title),
        style=style,
        introduction=introduction,
        links=links,
        sections=parts,
        data="" if data is None else f'<script type="application/json" id="data">{json_text(data)}</script>',
        script="" if data is None else f"<script>{script}</script>",
    )


def anchor(heading: str) -> str:
    """The id of a section.

    >>> anchor("Example users")
    'example-users'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in heading.lower()).split())


def table_html(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    """A table that scrolls sideways on a narrow screen, by keyboard too.

    Args:
        columns: plain text of the heads.
        rows: markup of the cells; the first one names its row.
        numeric: columns that are set flush right.
    """
    right = set(numeric)
    mark = [' class="number"' if index in right else "" for index in range(len(columns))]
    head = "".join(f'<th scope="col"{m}>{text(column)}</th>' for m, column in zip(mark, columns, strict=True))
    body = ""
    for first, *cells in rows:
        rest = "".join(f"<td{m}>{cell}</td>" for m, cell in zip(mark[1:], cells, strict=True))
        body += f'<tr><th scope="row"{mark[0]}>{first}</th>{rest}</tr>\n'
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(" ".join(columns[:2]))}"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def list_html(entries: Iterable[str], *, ordered: bool = False) -> str:
    """A list of entries that are markup."""
    tag = "ol" if ordered else "ul"
    return f"<{tag}>" + "".join(f"<li>{entry}</li>" for entry in entries) + f"</{tag}>"


def bar_html(share: float) -> str:
    """A thin bar, from 0 to 1 of its width."""
    width = max(0.0, min(1.0, share)) * 100
    return (
        '<svg class="bar" viewBox="0 0 100 3" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="3"/><rect width="{width:.1f}" height="3"/></svg>'
    )


def static_text(name: str) -> str:
    """One of the files beside this package's modules, in `static`."""
    return (resources.files(__package__) / "static" / name).read_text(encoding="utf-8")


def _hash(contents: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(contents.encode()).digest()).decode()}'"
