"""Command line: a thin layer over the Python API. Results go to stdout, progress to stderr."""

import atexit
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TextIO, get_args

from cyclopts import (
    App,
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)
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
    UnusedSettingWarning,
    printable,
    short_message,
)
from fastncf.memory import require_libraries, translate_exhaustion
from fastncf.streams import (
    OutputError,
    Terminated,
    discard_unwritten,
    guarded_streams,
    open_missing_descriptors,
    signals_as_interrupts,
)
from fastncf.suggestions import nearest_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cyclopts import Token
    from rich.console import Console

    from fastncf.data.ids import Vocabulary
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
    help_epilogue=(
        "Exit codes: 0 fine; 1 a result or a model could not be written, or another error at run time; 2 wrong usage "
        "or setting; 3 data that cannot be used; 4 a device that is not available, or too little memory; 130 "
        "interrupted; 129, 141, 143 ended by SIGHUP, by the reader of the output, by SIGTERM."
    ),
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative_iterable=()),
    config=[lambda *given: _require_integers(*given), lambda *given: _notebook_recipe(*given)],
)


def _path(_: object, tokens: "Sequence[Token]") -> Path:
    """Return a path with ``~`` as the home directory, which a shell leaves as it is in ``--out=~/model``."""
    value = tokens[0].value
    if not value or "\0" in value:
        raise ValueError("the path is empty or has a NUL character; expected the name of a file or folder")
    return Path(os.path.expanduser(value))


PathArgument = Annotated[Path, Parameter(converter=_path)]


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
    ratings: PathArgument,
    *,
    test: PathArgument | None = None,
    candidates: PathArgument | None = None,
    out: PathArgument | None = None,
    titles: PathArgument | None = None,
    notebook: Notebook = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    refit: Annotated[bool, Parameter(negative="")] = False,
    columns: Columns | None = None,
    config: Annotated[Config | None, Parameter(name="*")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit a model to a ratings file, hold out one item per user, and print how well it is ranked.

    Parameters
    ----------
    ratings
        CSV or TSV text (any MovieLens dialect), JSON lines, Parquet or Feather, plain or packed; a pattern in quotes,
        such as "data/*.csv", or a folder of Parquet files; or the name of a data set, such as ml-1m, which is
        downloaded.
    test
        Held-out interactions, one per user, instead of each user's latest.
    candidates
        With --test: its negatives in the format of He et al. 2017.
    out
        Folder to save the model in.
    titles
        Titles of the items, which the model keeps: u.item, movies.dat, movies.csv, another file with columns item and
        title, or ml-1m.
    notebook
        Start from the recipe of the NCF notebook instead of the defaults.
    dry_run
        Print the plan, and train nothing.
    refit
        After the model is measured, train it again on all interactions, the held-out ones included.
    """
    if refit and config is not None and config.holdout == "none":
        raise ConfigError("--refit: expected no --holdout none beside it, which measures nothing")
    if dry_run:
        for flag in ([f"--out {out}"] if out is not None else []) + (["--refit"] if refit else []):
            warnings.warn(f"{flag}: no effect, since --dry-run trains nothing", UnusedSettingWarning, stacklevel=1)
        plan(ratings, test=test, candidates=candidates, columns=columns, config=config, json=json)
        return
    from fastncf.data.named import find_source
    from fastncf.persistence import require_savable
    from fastncf.train import fit as fit_model

    if out is not None:
        require_savable(out)  # before the fit, which would be lost otherwise
    ratings = find_source(ratings)  # a download shows its own progress
    with _progress_shown() as callback:
        given: dict[str, Any] = {"test": test, "candidates": candidates, "titles": titles, **_column_names(columns)}
        recommender = fit_model(ratings, config=config, callback=callback, **given)
    try:
        _print(*_found(recommender), *str(recommender.plan).split("\n"), file=sys.stderr)
        _print(*_table(recommender.metrics), f"protocol: {recommender.protocol}")
        _print("seconds:  " + "  ".join(f"{stage} {value:.2f}" for stage, value in recommender.seconds.items()))
        sys.stdout.flush()  # what a fit has found is shown before anything else can go wrong
        if refit:
            with _progress_shown() as callback:
                recommender.refit(callback=callback)
            _print(f"refit:    {recommender.protocol.rpartition('; ')[2]}")
    finally:
        try:
            _save(recommender, out)
        except BaseException:
            with suppress(OutputError):
                if json:
                    _print_json(_report(recommender))
            raise
    if json:
        _print_json(_report(recommender))


@app.command
def plan(
    ratings: PathArgument,
    *,
    test: PathArgument | None = None,
    candidates: PathArgument | None = None,
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
        CSV or TSV text (any MovieLens dialect), JSON lines, Parquet or Feather, plain or packed; a pattern in quotes,
        such as "data/*.csv", or a folder of Parquet files; or the name of a data set, such as ml-1m, which is
        downloaded.
    test
        Held-out interactions, one per user, instead of each user's latest.
    candidates
        With --test: its negatives in the format of He et al. 2017.
    notebook
        Start from the recipe of the NCF notebook instead of the defaults.
    """
    from fastncf.train import plan_fit

    planned = plan_fit(ratings, test=test, candidates=candidates, config=config, **_column_names(columns))
    _print(*str(planned).split("\n"))
    if json:
        _print_json(planned.to_dict())


@app.command
def evaluate(
    model: PathArgument,
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
    _print(*_table(results), f"protocol: {protocol}")
    if json:
        _print_json({"metrics": results, "protocol": protocol})


@app.command
def recommend(
    model: PathArgument,
    *,
    user: list[str] | None = None,
    users: PathArgument | None = None,
    all_users: Annotated[bool, Parameter(negative="")] = False,
    k: int = 10,
    include_seen: Annotated[bool, Parameter(negative="")] = False,
    items: PathArgument | None = None,
    exclude: PathArgument | None = None,
    unknown: Literal["error", "skip", "popular"] = "error",
    titles: PathArgument | None = None,
    out: PathArgument | None = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the items that a saved model recommends to users, best first, or write them to a file.

    The table is separated by tabs. A tab, an end of a line, a backslash or another control character within an id is
    printed as an escape that starts with a backslash. Programs read --json or --out.

    Files of ids hold one id per line, or are tables in CSV, TSV, Parquet or JSON lines.

    Parameters
    ----------
    model
        Folder that ``fastncf fit --out`` wrote.
    user
        Raw user id; give it once for each user.
    users
        File of user ids.
    all_users
        Recommend to all users of the training data.
    k
        Items per user.
    include_seen
        Also recommend items that the user has already seen.
    items
        File of the only items that may be recommended.
    exclude
        File of items that are never recommended; of users and items, to leave out an item for one user.
    unknown
        What to do about users who are not in the training data: stop with an error, skip them, or recommend popular
        items.
    titles
        Titles of the items, as for fit; those that the model keeps where none are given.
    out
        File to write, which ends in .parquet or .csv.
    """
    if sum((bool(user), users is not None, all_users)) != 1:
        raise ConfigError(f"recommend needs users, in one of three ways: {_USAGE['recommend']}")
    from fastncf.data.readers.id_columns import read_id_file
    from fastncf.recommender import load
    from fastncf.serving.output import require_format

    if out is not None:
        require_format(out)  # before the model is read
    asked: Any = list(map(_as_utf8, user)) if user else None
    only: Any = None
    nobody: Any = None
    if users is not None:
        asked = read_id_file(users, ("user",))["user"]
    if items is not None:
        only = read_id_file(items, ("item",))["item"]
    if exclude is not None:
        nobody = read_id_file(exclude, ("item", "user"))
    recommender = load(model, titles=titles)
    if users is not None and unknown != "error":
        _tell_unknown(recommender.users, asked, users, "are skipped" if unknown == "skip" else "get popular items")
    for path, ids in ((items, only), (exclude, None if nobody is None else nobody["item"])):
        if path is not None:
            _tell_unknown(recommender.items, ids, path, "are ignored")
    frame = recommender.recommend(
        asked, k, exclude_seen=not include_seen, items=only, exclude=nobody, unknown=unknown, out=out
    )
    if isinstance(frame, Path):
        _print(str(frame))
    else:
        print("\t".join(frame.columns))
        for row in frame.iter_rows():
            print("\t".join(map(_table_field, row)))
    if json:
        _print_json({"out": str(out)} if isinstance(frame, Path) else {"recommendations": frame.to_dicts()})


@app.command
def export(model: PathArgument, out: PathArgument, *, debug: Debug = False) -> None:
    """Write the vectors of all users and items of a saved model to files that other programs read.

    Parameters
    ----------
    model
        Folder that ``fastncf fit --out`` wrote.
    out
        File that ends in .npz, or a folder for users.parquet and items.parquet.
    """
    from fastncf.recommender import load

    _print(*map(str, load(model).export(out)))


@app.command
def report(
    model: PathArgument,
    *,
    out: PathArgument | None = None,
    titles: PathArgument | None = None,
    debug: Debug = False,
) -> None:
    """Write a page about a saved model: one HTML file that needs no network.

    It shows how the model was measured, HR and NDCG over k beside the most popular items, the epochs, the time of each
    stage, popularity and coverage of recommendations, a map of the items, and a box in which to pick items.

    Parameters
    ----------
    model
        Folder that ``fastncf fit --out`` wrote.
    out
        File to write; report.html in the folder of the model where it is not given.
    titles
        Titles of the items: u.item, movies.dat, movies.csv, another file with columns item and title, or ml-1m.
    """
    from fastncf.recommender import load
    from fastncf.report import require_packages

    require_packages()
    _print(str(load(model).report(model / "report.html" if out is None else out, titles=titles)))


@app.command
def generate(
    path: PathArgument,
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
    _print(str(path))


@app.command
def datasets(*, json: Json = False, debug: Debug = False) -> None:
    """List the data sets that ``fit`` and ``plan`` take by their names, and download for it.

    Each stands with its interactions, the size of its archive, whether it is on this machine, and the address of its
    terms of use. A file of the same name in the current folder is read instead.
    """
    from fastncf.data.named import DATASETS, LICENCE, is_cached, locations

    rows = [(dataset, is_cached(name)) for name, dataset in DATASETS.items()]
    for dataset, is_here in rows:
        size = f"{dataset.num_interactions:>12,} interactions {dataset.num_bytes / 1e6:>7,.1f} MB"
        _print(f"{dataset.name:<8}{size}  {'here' if is_here else '    '}  {dataset.terms}")
    _print(f"licence: {LICENCE}")
    server, folder, _ = locations()
    _print(f"from {server}, kept in {folder}", file=sys.stderr)
    if json:
        listed = [asdict(dataset) | {"licence": dataset.licence, "is_cached": is_here} for dataset, is_here in rows]
        _print_json({"datasets": listed})


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command line and exit.

    The exit code is 0 when all went well, 1 for an error at run time, 2 for wrong usage, 3 for data, 4 for a device or
    memory, 130 for an interruption, and 128 more than the number of a signal: SIGHUP, SIGTERM, and SIGPIPE where the
    reader of the output has left.

    Args:
        arguments: the words after the name of the program; those of this process where they are not given.
    """
    is_own_process = arguments is None
    tokens = sys.argv[1:] if arguments is None else arguments
    signals: list[int] = []
    with ExitStack() as stack:
        if is_own_process:
            # in a process of its own, the collection of cyclic garbage among imports would take a second
            gc.set_threshold(200_000)
            atexit.register(gc.freeze)
            open_missing_descriptors()
            stack.callback(discard_unwritten)
            signals = stack.enter_context(signals_as_interrupts())
        stack.enter_context(guarded_streams())
        code = _run(tokens, signals)
    if signals:
        os._exit(code)  # does not wait for threads that are still compiling
    sys.exit(code)


def _run(tokens: list[str], signals: list[int]) -> int:
    """Run a command line, print what went wrong as one line to stderr, and return the exit code.

    Args:
        tokens: the words after the name of the program.
        signals: signals that have arrived; whatever error they have led to is an interruption.
    """
    is_debug = "--debug" in tokens
    try:
        with translate_exhaustion(tokens[0] if tokens else "fastncf", "smaller data or a smaller model"):
            if tokens and not tokens[0].startswith("-"):
                require_libraries()
            app(tokens, console=_console(), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # Polars' PanicException is no Exception
        if is_debug and not isinstance(error, CycloptsError | KeyboardInterrupt | OutputError):
            raise
        interrupt = KeyboardInterrupt() if signal.SIGINT in signals else Terminated(signals[0]) if signals else None
        message, code = _explain(interrupt or error)
        if message is not None:
            print(f"fastncf: {short_message(message)}", file=sys.stderr)
        return code
    return 0


def _console() -> "Console | None":
    """Return a console of 40 columns where the terminal has fewer: rich hangs on the help where there is one column."""
    if shutil.get_terminal_size().columns >= 40:
        return None  # cyclopts makes one where it is needed
    from rich.console import Console

    return Console(width=40)


def _explain(error: BaseException) -> tuple[str | None, int]:
    """Return a sentence on an error, or None where nobody wants one, and the exit code."""
    match error:
        case OutputError(reader_left=True):
            return None, 141
        case OutputError():
            return f"standard output: cannot be written ({error})", 1
        case Terminated():
            return str(error), 128 + error.number
        case KeyboardInterrupt():
            return str(error) or "interrupted", 130
        case CycloptsError():
            return _usage_message(error), 2
        case FastNCFError():
            return str(error), next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)
        case OSError(filename=name, strerror=reason) if name is not None and reason is not None:
            return f"{os.fsdecode(name) if isinstance(name, bytes) else name}: {reason}", 1
    return (
        f"internal error: {type(error).__name__}: {short_message(str(error)):.300}; run again with --debug for the "
        f"traceback and report it",
        1,
    )


_USAGE = {
    "fit": "fastncf fit RATINGS",
    "plan": "fastncf plan RATINGS",
    "evaluate": "fastncf evaluate MODEL",
    "recommend": "fastncf recommend MODEL --user ID, --users FILE or --all-users",
    "report": "fastncf report MODEL",
    "export": "fastncf export MODEL OUT",
    "generate": "fastncf generate PATH",
    "datasets": "fastncf datasets",
}
_NEEDED = {
    "--ratings": "a ratings file",
    "--model": "the folder of a saved model",
    "--out": "the name of a file or folder to write",
    "--path": "the name of a file to write",
}
"""Required arguments in words, by the names of their parameters."""

_KINDS: dict[Any, str] = {int: "an integer", float: "a number"}
"""Values in words, by the types of options."""


def _usage_message(error: CycloptsError) -> str:
    """Return a sentence on a command line that cannot be parsed."""
    command = error.command_chain[0] if error.command_chain else ""
    usage = _USAGE.get(command, "fastncf COMMAND")
    match error:
        case MissingArgumentError(keyword=None, argument=argument) if argument and argument.name in _NEEDED:
            return f"{command} needs {_NEEDED[argument.name]}: {usage}"
        case MissingArgumentError(keyword=str(keyword)):
            return f"{keyword} needs a value; one that starts with a dash is given as {keyword}=VALUE"
        case UnusedCliTokensError(unused_tokens=[unused, *_]):
            return f"unexpected argument {unused!r}; expected: {usage}"
        case UnknownOptionError(token=token, argument_collection=arguments):
            option = (token.keyword or token.value).partition("=")[0]
            if option == "-":
                return f"-: standard input is not read; expected: {usage}"
            known = [name.lstrip("-") for argument in arguments for name in argument.names if name.startswith("--")]
            meant = nearest_name(option.lstrip("-"), known)
            hint = f"Did you mean --{meant}?" if meant else f"See fastncf {command} --help."
            return f"Unknown option: {option}. {hint}"
        case RepeatArgumentError(token=token):
            return f"{token.keyword}: is given more than once; expected it once"
        case CoercionError(token=token, argument=argument, target_type=kind) if token and argument and kind in _KINDS:
            return f"{argument.name} {token.value!r:.80}: expected {_KINDS[kind]}"
        case UnknownCommandError(unused_tokens=[unused, *_]) if unused.startswith("-"):
            return f"{unused}: expected a command before it, one of {', '.join(_USAGE)}; see fastncf --help"
        case UnknownCommandError(unused_tokens=[unused, *_]):
            meant = nearest_name(unused, _USAGE)
            hint = f"did you mean {meant}? " if meant else ""
            return f"{unused!r:.80} is no command; {hint}expected one of {', '.join(_USAGE)}"
    return str(error)


def _as_utf8(text: str) -> str:
    """Return an argument as the UTF-8 that data are in, where the locale could not decode it."""
    if any("\udc80" <= character <= "\udcff" for character in text):
        return os.fsencode(text).decode("utf-8", "surrogateescape")
    return text


def _tell_unknown(vocabulary: "Vocabulary", ids: Any, path: Path, what: str) -> None:
    """Say on stderr how many ids of a file a model does not know, and what is done about them."""
    from fastncf.data.ids import named_ids

    unknown = int((vocabulary.find(named_ids(ids, vocabulary.noun)) < 0).sum())
    if unknown:
        _print(
            f"{path}: {unknown:,} of {len(ids):,} {vocabulary.noun}s are not in the training data and {what}",
            file=sys.stderr,
        )


def _column_names(columns: Columns | None) -> dict[str, str | None]:
    """Return the names of the columns that were given."""
    return {role: None if name is None else _as_utf8(name) for role, name in asdict(columns or Columns()).items()}


def _print(*lines: str, file: TextIO | None = None) -> None:
    """Print lines of text, of which each stays one line, to stdout or a stream."""
    print("\n".join(map(printable, lines)), file=file)


def _save(recommender: "Recommender", out: Path | None) -> None:
    """Save a model that was fitted and say where; a model that cannot be saved there is saved in a temporary folder.

    Raises:
        FastNCFError: the model is in the temporary folder, or nowhere; the message says so.
    """
    if out is None:
        print("not saved: give --out to keep the model", file=sys.stderr)
        return
    try:
        recommender.save(out)
    except KeyboardInterrupt as error:
        if not isinstance(error, Terminated):
            raise KeyboardInterrupt(f"interrupted while the model was saved to {out}") from None
        raise
    except Exception as error:
        raise FastNCFError(f"{short_message(str(error)):.230}; {_save_elsewhere(recommender)}") from error
    _print(f"saved to {out}")


def _save_elsewhere(recommender: "Recommender") -> str:
    """Save a model in a new temporary folder and return a sentence on where it is."""
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="fastncf-model-"))
        recommender.save(folder)
    except Exception as error:
        if folder is not None:
            folder.rmdir()
        return f"the model is lost, since it cannot be saved elsewhere either ({short_message(str(error)):.150})"
    return f"the model was saved to {folder} instead"


def _require_integers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Raise a ConfigError for a fraction where an integer is expected, which would be rounded otherwise."""
    for argument in arguments:
        kinds = {kind for hint in (argument.hint, *get_args(argument.hint)) for kind in (hint, *get_args(hint))}
        for token in argument.tokens if int in kinds else ():
            if "." in token.value:
                raise ConfigError(f"{argument.name} {token.value}: expected an integer")


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
        "num_missing": "rows lack a user, an item or a time and were left out",
        "num_low_rated": "rows have a lower rating than --min-rating and were left out",
        "num_duplicates": "repeated (user, item) rows were counted once",
        "num_users_all_seen": "users have seen every item and were left out",
        "num_users_too_short": "users with a single interaction are trained on and not tested",
        "num_items_unknown": "items have no training interaction, so that nothing is learnt about them",
        "num_test_items_unknown": "users are tested on such an item",
        "num_candidates_unknown": "given candidates are such items",
        "num_candidates_seen": "given candidates that their user has seen were left out",
    }
    return lines + [f"{data[name]:,} {note}" for name, note in notes.items() if data.get(name)]


def _table(metrics: dict[str, float]) -> list[str]:
    """Return metrics as lines of text."""

    def label(name: str) -> str:
        """Return the name of a metric as papers write it."""
        return name.upper().replace("FULL/", "full ")

    return [f"{label(name):<14} {value:.4f}" for name, value in metrics.items()]


def _table_field(value: object) -> str:
    """Return a value as a field of a table that is separated by tabs; a backslash in it always starts an escape."""
    return f"{value:.4f}" if isinstance(value, float) else printable(str(value).replace("\\", r"\\"))


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
    from fastncf.persistence.plain import finite_or_none  # imports NumPy

    print(json.dumps(finite_or_none(value), allow_nan=False))


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
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}", markup=False),
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
