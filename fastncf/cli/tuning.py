"""Command that searches for better settings."""

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from fastncf.cli.app import Columns, Common, ConfigFile, Json, OutArgument, PathArgument, column_names
from fastncf.cli.output import print_json, print_lines, require_apart, tell
from fastncf.config import Config
from fastncf.errors import DataNotFoundError
from fastncf.search.interrupted import trials_noted


def tune(
    ratings: PathArgument,
    *,
    minutes: float,
    out: OutArgument | None = None,
    study: PathArgument | None = None,
    picture: PathArgument | None = None,
    test: PathArgument | None = None,
    candidates: PathArgument | None = None,
    config_file: ConfigFile | None = None,
    columns: Columns | None = None,
    config: Annotated[Config | None, Parameter(name="*")] = None,
    json: Json = False,
    common: Common | None = None,
) -> None:
    """Search for settings that rank held-out items better than the defaults, within a budget of minutes.

    The test items are not looked at: one more item of each user is held out for the search. Settings that are given are
    not searched. Needs the packages of fastncf[tune].

    Parameters
    ----------
    ratings
        As for fit.
    minutes
        Budget of this run, such as 10 or 0.5.
    out
        TOML file of the best settings, which ``fastncf fit --config`` takes. By default the settings are printed.
    study
        File in which the trials are kept; the same command continues its search.
    picture
        SVG file to draw the importance of each setting in; needs the packages of fastncf[report].
    test
        As for fit; its items are not looked at.
    candidates
        With --test, as for fit.
    """
    with trials_noted(study):
        from fastncf.data.named import find_source
        from fastncf.report import require_packages as require_packages_of_pictures
        from fastncf.search.study import tune as search

        if picture is not None:
            require_packages_of_pictures()
        require_apart(out=out, study=study, picture=picture)
        for path in (out, picture):
            if path is not None and not path.absolute().parent.is_dir():
                raise DataNotFoundError(f"{path}: there is no such folder; expected a file in one that exists")

        def show(number: int, ndcg: float | None, best: float | None) -> None:
            """Print how a trial has ended."""
            ended = "ended early" if ndcg is None else f"NDCG {ndcg:.4f}"
            tell(f"trial {number}: {ended}" + ("" if best is None else f"; best {best:.4f}"))

        inputs: dict[str, Any] = {"test": test, "candidates": candidates, **column_names(columns)}
        found = search(find_source(ratings), minutes=minutes, study=study, config=config, callback=show, **inputs)
        if json:
            print_json(found.to_dict())
        else:
            print_lines(*str(found).split("\n"))
        sys.stdout.flush()  # what was found is shown before a file cannot be written
        if out is not None:
            tell(f"written to {found.write(out)}: fastncf fit RATINGS --config {out}")
        if picture is not None:
            found.write_picture(picture)
