"""A report as one self-contained HTML file: text, numbers, tables, pictures and plots."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from disk.errors import ArtifactError
from disk.storage.new_file import write_text

_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}


@dataclass(frozen=True)
class Picture:
    """A .jpg or .png file and its caption."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Table:
    """A table; the first `text` columns hold words, the others numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 1


@dataclass(frozen=True)
class Section:
    """A section of a report.

    facts: (label, value) pairs, shown above the rest in large type
    plot: HTML inserted unchanged, so text from users must already be escaped in it
    """

    title: str
    text: str
    facts: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    table: Table | None = None
    plot: str = ""


def write_report(path: Path, title: str, intro: str, sections: Sequence[Section], library: str = "") -> Path:
    """Write the page and return its path. All texts except plots are HTML-escaped.

    library: the script that the plots need
    """
    body = "\n".join(_section(section) for section in sections)
    head = f"<script>{library}</script>" if library else ""
    write_text(path, _PAGE.substitute(title=escape(title), intro=escape(intro), body=body, head=head, mark=_MARK))
    return path


def refuse_other_report(path: Path) -> None:
    """Raise ArtifactError if the file exists and `write_report` did not write it."""
    if path.exists() and not is_report(path):
        raise ArtifactError(f"{path} was not written by this program and is not replaced; move it to another place")


def is_report(path: Path) -> bool:
    """Whether a file is a report of this program."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _MARK.encode() in file.read(1000)


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>", f"<p>{escape(section.text)}</p>"]
    if section.facts:
        facts = "".join(f"<div><b>{escape(v)}</b><span>{escape(k)}</span></div>" for k, v in section.facts)
        parts.append(f'<div class="facts">{facts}</div>')
    if section.plot:
        parts.append(section.plot)
    parts += [_figure(picture) for picture in section.pictures]
    if section.table is not None:
        head = _row("th", section.table.headings, section.table.text)
        body = "".join(_row("td", row, section.table.text) for row in section.table.rows)
        parts.append(f'<div class="wide"><table>{head}{body}</table></div>')
    return "\n".join([*parts, "</section>"])


def _row(tag: str, cells: Sequence[str], text: int) -> str:
    kinds = [f'{tag} class="text"' if column < text else tag for column in range(len(cells))]
    return "<tr>{}</tr>".format("".join(f"<{k}>{escape(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True)))


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode()
    source = f"data:{_TYPES[picture.path.suffix.lower()]};base64,{data}"
    caption = escape(picture.caption)
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


_MARK = '<meta name="generator" content="DISK">'
# the policy keeps the page from fetching anything; plotly needs 'unsafe-eval'
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
$mark
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  :root { color-scheme: light dark; --ink: #1b1f24; --faint: #5f6b7a; --ground: #f5f6f8; --card: #fff; --line: #dfe3e8 }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e8ebef; --faint: #9aa6b4; --ground: #14171b; --card: #1d2126; --line: #343b44 }
  }
  * { box-sizing: border-box }
  body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
  main { max-width: 1120px; margin: 0 auto; padding: 40px 20px 80px }
  h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 .4em }
  h2 { font-size: 1.4rem; margin: 0 0 .3em }
  p { max-width: 75ch; margin: 0 0 1em; color: var(--faint) }
  section { background: var(--card); border: 1px solid var(--line); border-radius: 12px }
  section { padding: 28px; margin-top: 28px }
  .facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 18px 0 }
  .facts div { border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px }
  .facts b { display: block; font-size: 1.45rem; line-height: 1.25; font-variant-numeric: tabular-nums }
  .facts span, figcaption { color: var(--faint); font-size: .9rem }
  figure { margin: 22px 0 0 }
  img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 6px; background: #fff }
  figcaption { margin-top: 8px }
  .plot { margin-top: 18px }
  .note { min-height: 1.6em; margin: 8px 0 0; color: var(--faint); font-size: .9rem; overflow-wrap: anywhere }
  .wide { overflow: auto; max-height: 440px; margin-top: 22px }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
  th, td { text-align: right; vertical-align: top; padding: 5px 12px; border-bottom: 1px solid var(--line) }
  th { color: var(--faint); font-weight: 600; position: sticky; top: 0; background: var(--card) }
  .text { text-align: left }
  td.text { min-width: 9em; overflow-wrap: anywhere }
  @media (max-width: 600px) { main { padding: 20px 8px 40px } section { padding: 16px } }
</style>
$head
</head>
<body><main>
<h1>$title</h1>
<p>$intro</p>
$body
</main></body>
</html>
""")
