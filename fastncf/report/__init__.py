"""A page about a fitted model: one HTML file that needs no network.

``measure`` computes what it shows, ``charts`` draws, ``box`` gathers what the box needs in which a reader picks items,
``tables`` packs its vectors, ``sections`` writes what stands in the page, and ``page`` the file, with ``page.css`` and
``page.js``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastncf.config import show
from fastncf.errors import ConfigError, DataError, FastNCFError
from fastncf.files import replaced
from fastncf.report.measure import HeldOut

if TYPE_CHECKING:
    from fastncf.report.box import ByHistory
    from fastncf.report.sections import Reported


def require_packages() -> None:
    """Check that the packages that draw charts are installed.

    Raises:
        FastNCFError: one of them is not.
    """
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise FastNCFError(
            f"a report needs the package {error.name}, which is not installed; expected: pip install 'fastncf[report]'"
        ) from None


def require_page_path(path: Any) -> Path:
    """Return the path of a page.

    Raises:
        ConfigError: it is none, or its name does not say that it is HTML.
    """
    if not isinstance(path, str | Path) or Path(path).suffix.lower() not in (".html", ".htm"):
        shown = show(str(path) if isinstance(path, Path) else path)
        raise ConfigError(f"report: {shown}: expected the path of a file whose name ends in .html")
    return Path(path)


def write_report(
    recommender: "Reported",
    held_out: HeldOut | None,
    path: Path,
    titles: Any | None = None,
    *,
    by_history: "ByHistory | None" = None,
) -> Path:
    """Write a page about a fitted model and return its path.

    Args:
        recommender: the model with its data.
        held_out: held-out items and their ranks; None where nothing is held out.
        path: file to write, see :func:`require_page_path`; an older report is replaced.
        titles: see :func:`fastncf.data.titles.read_titles`; None shows ids in place of titles.
        by_history: what makes users of histories, in the model or the one that it was pretrained by; or None.

    Raises:
        FastNCFError: a package is not installed.
        DataNotFoundError, DataError: the titles cannot be read; the file is no report, or cannot be written.
    """
    require_packages()
    from fastncf.report.page import require_replaceable, write_page
    from fastncf.report.sections import Sections

    require_replaceable(path)
    write_page(Sections(recommender, held_out, titles, by_history), path)
    return path


def write_bars(values: Mapping[str, float], title: str, path: Path) -> Path:
    """Draw values as horizontal bars in an SVG file, and return its path.

    Args:
        values: lengths of the bars by their names, at least one.
        title: of the axis.
        path: file to write.

    Raises:
        FastNCFError: a package is not installed.
        DataError: the file cannot be written.
    """
    require_packages()
    from fastncf.report.charts import bars, to_svg

    try:
        with replaced(path) as file:
            file.write_text(to_svg(bars(values, title), width=400), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path
