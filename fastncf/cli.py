"""Command line: a thin layer over the Python API. Results go to stdout, progress to stderr."""

import atexit
import gc
import json
import math
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter
from cyclopts.config import Dict

from fastncf.config import Config
from fastncf.errors import (
    ConfigError,
    DataError,
    DataNotFoundError,
    DeviceError,
    DivergedError,
    FastNCFError,
    InsufficientMemoryError,
)
from fastncf.memory import require_libraries, translate_exhaustion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastncf.recommender import Recommender
    from fastncf.trainers.loop import Progress

EXIT_CODES = {
    DataError: 3,
    DataNotFoundError: 3,
    DeviceError: 4,
    InsufficientMemoryError: 4,
    ConfigError: 2,
    DivergedError: 1,
}

app = App(
    name="fastncf",
    help="From a ratings file to a collaborative filtering model: fit it, evaluate it, get recommendations.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
    config=[lambda *given: _notebook_recipe(*given)],
)


@Parameter(name="*")
@dataclass(frozen=True)
class Columns:
    """Names of the columns, where they are not among those that are recognised."""

    user: str | None = None
    """Name of the user column; without a header the columns are called column_1, column_2 and so on."""

    item: str | None = None
    """Name of the item column."""

    time: str | None = None
    """Name of the time column."""


Notebook = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object as the last line of stdout.")]
Debug = Annotated[bool, Parameter(name="--debug", negative="", help="Show the traceback of an error.")]


@app.command
def fit(
    ratings: Path,
    *,
    test: Path | None = None,
    candidates: Path | None = None,
    out: Path | None = None,
    notebook: Notebook = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    columns: Columns | None = None,
    config: Annotated[Config | None, Parameter(name="*")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit a model to a ratings file, hold out one item per user, and print how well it is ranked.

    Parameters
    ----------
    ratings
        CSV or TSV text (any MovieLens dialect; plain, gzip or zip) or Parquet.
    test
        Held-out interactions, one per user, instead of each user's latest.
    candidates
        With --test: its negatives in the format of He et al. 2017.
    out
        Folder to save the model in.
    notebook
        Start from the recipe of the NCF notebook instead of the defaults.
    dry_run
        Print the plan, and train nothing.
    """
    if dry_run:
        plan(ratings, test=test, candidates=candidates, columns=columns, config=config, json=json)
        return
    from fastncf.persistence import require_savable
    from fastncf.train import fit as fit_model

    if out is not None:
        require_savable(out)  # before the fit, which would be lost otherwise
    with _progress_shown() as callback:
        recommender = fit_model(
            ratings, test=test, candidates=candidates, config=config, callback=callback, **asdict(columns or Columns())
        )
    if out is not None:
        recommender.save(out)
    for line in _found(recommender):
        print(line, file=sys.stderr)
    print(recommender.plan, file=sys.stderr)
    print(_table(recommender.metrics))
    print(f"protocol: {recommender.protocol}")
    print("seconds:  " + "  ".join(f"{stage} {value:.2f}" for stage, value in recommender.seconds.items()))
    if out is not None:
        print(f"saved to {out}")
    if json:
        _print_json(_report(recommender))


@app.command
def plan(
    ratings: Path,
    *,
    test: Path | None = None,
    candidates: Path | None = None,
    notebook: Notebook = False,
    columns: Columns | None = None,
    config: Annotated[Config | None, Parameter(name="*")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Read a ratings file and print what ``fit`` would do with it, and why, without training anything.

    Parameters
    ----------
    ratings
        CSV or TSV text (any MovieLens dialect; plain, gzip or zip) or Parquet.
    test
        Held-out interactions, one per user, instead of each user's latest.
    candidates
        With --test: its negatives in the format of He et al. 2017.
    notebook
        Start from the recipe of the NCF notebook instead of the defaults.
    """
    from fastncf.train import plan_fit

    planned = plan_fit(ratings, test=test, candidates=candidates, config=config, **asdict(columns or Columns()))
    print(planned)
    if json:
        _print_json(planned.to_dict())


@app.command
def evaluate(
    model: Path,
    *,
    k: int | None = None,
    num_candidates: int | None = None,
    full_ranking: bool | None = None,
    device: str = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Rank the held-out items of a saved model again, perhaps with another protocol.

    Parameters
    ----------
    model
        Folder that ``fastncf fit --out`` wrote.
    k
        Length of the ranking that HR@k and NDCG@k look at.
    num_candidates
        Negatives that a held-out item is ranked against.
    full_ranking
        Also rank against the whole catalogue.
    device
        Device that scores: a torch device, or auto.
    """
    from fastncf.recommender import load

    results, protocol = load(model, device=device).evaluate(
        k=k, num_candidates=num_candidates, full_ranking=full_ranking
    )
    print(_table(results))
    print(f"protocol: {protocol}")
    if json:
        _print_json({"metrics": results, "protocol": protocol})


@app.command
def recommend(
    model: Path,
    *,
    user: list[str],
    k: int = 10,
    include_seen: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the items that a saved model recommends to users, best first.

    Parameters
    ----------
    model
        Folder that ``fastncf fit --out`` wrote.
    user
        Raw user id; give it once for each user.
    k
        Items per user.
    include_seen
        Also recommend items that the user has already seen.
    """
    from fastncf.recommender import load

    frame = load(model).recommend(user, k, exclude_seen=not include_seen)
    print("\t".join(frame.columns))
    for row in frame.iter_rows():
        print("\t".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row))
    if json:
        _print_json({"recommendations": frame.to_dicts()})


@app.command
def generate(
    path: Path,
    *,
    users: int = 138_493,
    items: int = 26_744,
    interactions: int = 20_000_263,
    seed: int = 0,
    dialect: Literal["grouplens", "kaggle", "parquet"] = "grouplens",
    debug: Debug = False,
) -> None:
    """Write a generated data set with the shape of MovieLens, by default of MovieLens-20M.

    Parameters
    ----------
    path
        File to write.
    users
        Number of users.
    items
        Number of items.
    interactions
        Number of ratings, about.
    seed
        Determines every rating.
    dialect
        grouplens: CSV with unix times; kaggle: every field quoted, times as dates; parquet.
    """
    from fastncf.data.synthetic import write_synthetic_movielens

    write_synthetic_movielens(path, users, items, interactions, seed=seed, dialect=dialect)
    print(path)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command line and exit: 0 fine, 1 diverged, 2 usage, 3 data, 4 device or memory, 130 interrupted."""
    if arguments is None:  # in a process of its own, the collection of cyclic garbage among imports would take a second
        gc.set_threshold(200_000)
        atexit.register(gc.freeze)
    tokens = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in tokens
    try:
        with translate_exhaustion(tokens[0] if tokens else "fastncf", "smaller data or a smaller model"):
            if tokens and not tokens[0].startswith("-"):
                require_libraries()
            app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(" ".join(str(error).split()), 2)
    except FastNCFError as error:
        if debug:
            raise
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        _fail(" ".join(str(error).split()), code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    """Print one line to stderr and exit with a code."""
    print(f"fastncf: {message}", file=sys.stderr)
    sys.exit(code)


def _notebook_recipe(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """With --notebook, fill every flag of the recipe that was not given."""
    if any(argument.name == "--notebook" and argument.tokens for argument in arguments):
        recipe, plain = Config.notebook().to_dict(), Config().to_dict()
        flags = {name.replace("_", "-"): value for name, value in recipe.items() if value != plain[name]}
        Dict(flags, use_commands_as_keys=False, source="--notebook")(app, commands, arguments)


def _found(recommender: "Recommender") -> list[str]:
    """Return lines on what was recognised in the file, and on rows and users that were not used as they are."""
    found, data = recommender.found, recommender.data
    columns = ", ".join(f"{role} = {name}" for role, name in found["columns"].items())
    lines = [
        f"{found['source']}: {found['format']}; {columns}; {found['rows']:,} rows",
        f"{data['interactions']:,} interactions of {data['users']:,} users with {data['items']:,} items",
    ]
    notes = {
        "num_duplicates": "repeated (user, item) rows were counted once",
        "num_users_all_seen": "users have seen every item and were left out",
        "num_users_too_short": "users with a single interaction are trained on and not tested",
    }
    return lines + [f"{data[name]:,} {note}" for name, note in notes.items() if data[name]]


def _table(metrics: dict[str, float]) -> str:
    """Return metrics as lines of text."""

    def label(name: str) -> str:
        """Return the name of a metric as papers write it."""
        return name.upper().replace("FULL/", "full ")

    return "\n".join(f"{label(name):<14} {value:.4f}" for name, value in metrics.items())


def _report(recommender: "Recommender") -> dict[str, Any]:
    """Return the result of a fit as plain values for ``--json``."""
    return {
        "metrics": recommender.metrics,
        "protocol": recommender.protocol,
        "config": recommender.config.to_dict(),
        "plan": recommender.plan.to_dict(),
        "data": recommender.data,
        "seconds": recommender.seconds,
        "training_log": recommender.training_log,
    }


def _print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on a line; numbers that are not finite, which JSON does not have, are null."""
    print(json.dumps(_finite(value), allow_nan=False))


def _finite(value: Any) -> Any:
    """Return plain values with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_COMPILING = "compiling kernels for this machine: this takes some seconds, the first time only"


@contextmanager
def _progress_shown() -> "Iterator[_Bar | None]":
    """Show a progress bar on a terminal, and say that kernels are compiled where they are; yield the callback."""
    from fastncf.kernels.cpu.compiling import when_compiling

    if not sys.stderr.isatty():  # rich's bar is not imported for nothing
        with when_compiling(lambda: print(_COMPILING, file=sys.stderr)):
            yield None
        return
    with _Bar() as bar, when_compiling(lambda: bar.progress.console.print(_COMPILING)):
        yield bar


class _Bar:
    """A progress bar on stderr with loss, validation metrics and samples/s."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}"),
            console=Console(stderr=True),
        )
        self.task = self.progress.add_task("read", total=None, status="")

    def __enter__(self) -> "_Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, progress: "Progress") -> None:
        if progress.stage != "epoch":
            self.progress.update(self.task, description=progress.stage, total=progress.epochs)
            return
        scores = "  ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
        line = f"loss {progress.loss:.4f}  {progress.samples_per_second / 1e6:.2f} M samples/s  {scores}"
        self.progress.update(self.task, completed=progress.epoch, status=line)
