"""The file of a page: HTML with its style, its scripts and its data."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastncf.errors import DataError
from fastncf.files import replaced
from fastncf.persistence.plain import finite_or_none
from fastncf.report import charts
from fastncf.report.sections import Sections, text

_MARK = '<meta name="generator" content="fastncf">'
"""Text near the begin of a page, which tells that a report may replace the file."""

_POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"
"""Rights of the page in a browser: it loads nothing. Vega compiles functions, which counts as ``eval``."""


def require_replaceable(path: Path) -> None:
    """Check that a page may be written to a path, before it is made.

    Raises:
        DataError: there is a file that no report wrote, or one that cannot be read.
    """
    try:
        with path.open("rb") as file:
            is_page = _MARK.encode() in file.read(400)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(
            f"{path}: cannot be replaced ({error.strerror or error}); expected the name of a file"
        ) from None
    if not is_page:
        raise DataError(f"{path}: is no report; expected a new file, or a report to replace")


def write_page(sections: Sections, path: Path) -> None:
    """Write a page in one step; an older one is replaced.

    Raises:
        DataError: the file cannot be written.
    """
    content = render(sections)
    try:
        with replaced(path) as draft:
            draft.write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); expected the name of a file") from None


def render(sections: Sections) -> str:
    """Return a page as text."""
    content = sections.html()  # before the charts are read, which it adds
    folder = files("fastncf.report")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    title, data = text(f"fastncf: {sections.model}"), {"charts": sections.charts, "box": sections.box}
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{_MARK}\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{content}"
        f"<footer>Written by fastncf. This file needs no network and sends nothing.</footer>\n</main>\n"
        f'<script type="application/json" id="report">{_json(data)}</script>\n'
        f"<script>{_script(charts.javascript())}</script>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _json(value: Any) -> str:
    """Return a value as JSON within a script element, which no text in it can end."""
    dumped = json.dumps(finite_or_none(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        dumped = dumped.replace(character, f"\\u{ord(character):04x}")
    return dumped


def _script(source: str) -> str:
    """Return JavaScript within a script element, which nothing in it can end."""
    return source.replace("</script", "<\\/script").replace("<!--", "<\\!--")
