"""Commands that read ratings: fit and plan."""

import sys
import tempfile
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from cyclopts import Parameter

from fastncf import rank_variables
from fastncf.cli.app import (
    Columns,
    Common,
    ConfigFile,
    Flag,
    Json,
    OutArgument,
    PathArgument,
    column_names,
    option_names,
)
from fastncf.cli.messages import as_options
from fastncf.cli.output import metric_lines, print_json, print_lines, require_apart, tell
from fastncf.config import Config
from fastncf.errors import ConfigError, FastNCFError, UnusedSettingWarning, counted, printable, short_message
from fastncf.memory import limited_memory, parse_bytes
from fastncf.progress import progress_shown
from fastncf.streams import OutputError, Terminated

if TYPE_CHECKING:
    from fastncf.plan import Plan
    from fastncf.recommender import Recommender


def fit(
    ratings: PathArgument,
    *,
    test: PathArgument | None = None,
    candidates: PathArgument | None = None,
    out: OutArgument | None = None,
    titles: PathArgument | None = None,
    config_file: ConfigFile | None = None,
    notebook: Flag = False,
    dry_run: Flag = False,
    refit: Flag = False,
    seeds: int | None = None,
    checkpoint: PathArgument | None = None,
    resume: Flag = False,
    max_memory: str | None = None,
    columns: Columns | None = None,
    config: Annotated[Config | None, Parameter(name="*")] = None,
    json: Json = False,
    common: Common | None = None,
) -> None:
    """Fit a model to a ratings file, hold out one item per user, and print how well it is ranked.

    Parameters
    ----------
    ratings
        CSV or TSV text (any MovieLens dialect), JSON lines, Parquet or Feather, plain or packed; a pattern in quotes,
        such as "data/*.csv", or a folder of Parquet files; or the name of a data set, such as ml-1m, which is
        downloaded.
    test
        Held-out interactions, one or several per user, instead of each user's latest.
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
        Fit nothing. Print the plan as a file of settings, which --config takes, and the memory and time that the fit is
        expected to need, extrapolated from short measurements.
    refit
        After the model is measured, train it again on all interactions, the held-out ones included.
    seeds
        Number of fits, with consecutive seeds, on data that are read and split once. Print means and standard
        deviations over the seeds, and save the model of the first one.
    checkpoint
        Folder to which the state of the training is written after each epoch and every five minutes.
    resume
        Go on from the state in the folder of --checkpoint, if there is one.
    max_memory
        Limit of the memory of the process, such as 4GB; a fit that is expected to need more is refused.
    """
    if refit and config is not None and config.holdout == "none":
        raise ConfigError("--refit: expected no --holdout none beside it, which measures nothing")
    if seeds is not None and (refit or resume or checkpoint is not None):
        raise ConfigError("--seeds: expected no --refit, --checkpoint or --resume beside it, which belong to one fit")
    require_apart(out=out, checkpoint=checkpoint)
    if dry_run:
        given = [f"{name} {path}" for name, path in (("--out", out), ("--checkpoint", checkpoint)) if path is not None]
        _warn_without_effect(given + ["--resume"] * resume)
        inputs: dict[str, Any] = {"test": test, "candidates": candidates, **column_names(columns)}
        _tell_dry_run(config or Config(), _planned(ratings, config, inputs, seeds=seeds, refit=refit), json)
        return
    from fastncf.data.named import find_source
    from fastncf.persistence import require_savable
    from fastncf.train import fit as fit_model

    if out is not None and rank_variables.is_first_process():  # others would try the same folder at the same time
        require_savable(out)  # before the fit, which would be lost otherwise
    ratings = find_source(ratings)  # a download shows its own progress
    with progress_shown(tell=tell) as callback:
        inputs = {"test": test, "candidates": candidates, "titles": titles, **column_names(columns)}
        if seeds is not None:
            with limited_memory(parse_bytes("max_memory", max_memory)):
                _repeat(ratings, seeds, out, json, {**inputs, "config": config, "callback": callback})
            return
        recommender = fit_model(
            ratings,
            config=config,
            callback=callback,
            progress=False,
            checkpoint=checkpoint,
            resume=resume,
            max_memory=max_memory,
            **inputs,
        )
    try:
        print_lines(*_found(recommender), *_plan_lines(recommender.plan), file=sys.stderr)
        shown = sys.stderr if json else sys.stdout
        seconds = "  ".join(f"{stage} {value:.2f}" for stage, value in recommender.seconds.items())
        if not json:
            print_lines(
                *metric_lines(recommender.metrics, recommender.errors, recommender.popularity),
                f"protocol: {recommender.protocol}",
                f"seconds:  {seconds}",
            )
        sys.stdout.flush()  # what a fit has found is shown before anything else can go wrong
        if refit:
            with limited_memory(parse_bytes("max_memory", max_memory)), progress_shown(tell=tell) as callback:
                folder = None if checkpoint is None else checkpoint / "refit"
                recommender.refit(callback=callback, progress=False, checkpoint=folder, resume=resume)
            print_lines(f"refit:    {recommender.protocol.rpartition('; ')[2]}", file=shown)
    finally:
        try:
            _save(recommender, out, shown, checkpoint)
        except BaseException:
            with suppress(OutputError):
                if json:
                    print_json(_report(recommender))
            raise
    if json:
        print_json(_report(recommender))


def _repeat(ratings: Any, seeds: int, out: Path | None, as_json: bool, given: dict[str, Any]) -> None:
    """Fit with several seeds, print means and deviations, and save the first model."""
    from fastncf.repetitions import repeat

    found = repeat(ratings, seeds=seeds, progress=False, **given)
    first, means, deviations = found.recommenders[0], found.means(), found.deviations()
    print_lines(*_found(first), *_plan_lines(first.plan), file=sys.stderr)
    if not as_json:
        lines = metric_lines(means, deviations, first.popularity, spread="standard deviation over seeds")
        print_lines(*lines, f"protocol: {found.protocol}")
    sys.stdout.flush()
    _save(first, out, sys.stderr if as_json else sys.stdout)
    if as_json:
        values = {"seeds": list(found.seeds), "metrics": found.metrics, "means": means, "deviations": deviations}
        print_json({**values, "popularity": first.popularity, "protocol": found.protocol})


def _warn_without_effect(flags: list[str]) -> None:
    """Warn of options that a dry run takes and does not use."""
    for flag in flags:
        warnings.warn(f"{flag}: no effect, since --dry-run trains nothing", UnusedSettingWarning, stacklevel=1)


def _planned(
    ratings: Path, config: Config | None, given: dict[str, Any], *, seeds: int | None = None, refit: bool = False
) -> "Plan":
    """Return the plan of a fit, whose cost is that of all its runs, with the seconds this process took to start."""
    from fastncf.calibration import seconds_of_process, with_start
    from fastncf.repetitions import chosen_seeds
    from fastncf.train import plan_fit

    start = seconds_of_process()
    runs = 1 if seeds is None else len(chosen_seeds(seeds, (config or Config()).seed))
    plan = plan_fit(ratings, config=config, measure=True, **given)
    return replace(plan, cost=with_start(plan.cost, start).of_runs(runs, refit=refit))


def _tell_dry_run(config: Config, planned: "Plan", as_json: bool) -> None:
    """Print what a fit would do as TOML: the plan in comments, and the settings that lead to it."""
    from fastncf.plan_file import settings_to_repeat, sizes, to_toml

    settings = settings_to_repeat(config, planned)
    if planned.l2_trials and config.l2 is None:
        del settings["l2"]  # a fit is going to choose it
    if as_json:
        print_json({**planned.to_dict(), "settings": settings})
    else:
        print(to_toml(settings, (sizes(planned), *map(printable, str(planned).split("\n")))))


def plan(
    ratings: PathArgument,
    *,
    test: PathArgument | None = None,
    candidates: PathArgument | None = None,
    config_file: ConfigFile | None = None,
    notebook: Flag = False,
    columns: Columns | None = None,
    config: Annotated[Config | None, Parameter(name="*")] = None,
    json: Json = False,
    common: Common | None = None,
) -> None:
    """Read a ratings file and print what ``fit`` would do with it, and why, without training anything.

    Parameters
    ----------
    ratings
        CSV or TSV text (any MovieLens dialect), JSON lines, Parquet or Feather, plain or packed; a pattern in quotes,
        such as "data/*.csv", or a folder of Parquet files; or the name of a data set, such as ml-1m, which is
        downloaded.
    test
        Held-out interactions, one or several per user, instead of each user's latest.
    candidates
        With --test: its negatives in the format of He et al. 2017.
    notebook
        Start from the recipe of the NCF notebook instead of the defaults.
    """
    given: dict[str, Any] = {"test": test, "candidates": candidates, **column_names(columns)}
    planned = _planned(ratings, config, given)
    if json:
        print_json(planned.to_dict())
    else:
        print_lines(*_plan_lines(planned))


def _plan_lines(plan: "Plan") -> list[str]:
    """Return the lines of a plan, whose reasons name options of the command line."""
    options = option_names(["fit"])

    def name_of(setting: str) -> str:
        option = f"--{setting.replace('_', '-')}"
        return option if option in options else setting

    return [as_options(line, options) for line in plan.lines(name_of)]


def _found(recommender: "Recommender") -> list[str]:
    """Return lines on what was recognised in the file, and on rows and users that were not used as they are."""
    found, data = recommender.found, recommender.data
    columns = ", ".join(f"{role} = {name}" for role, name in found["columns"].items())
    lines = [
        f"{found['source']}: {found['format']}; {columns}; {counted(found['rows'], 'row')}",
        f"{counted(data['interactions'], 'interaction')} of {counted(data['users'], 'user')} with "
        f"{counted(data['items'], 'item')}",
    ]
    notes = {
        "num_missing": ("row lacks", "rows lack", " a user, an item or a time; left out"),
        "num_low_rated": ("row has", "rows have", " a lower rating than --min-rating; left out"),
        "num_duplicates": ("repeated (user, item) row was", "repeated (user, item) rows were", " counted once"),
        "num_users_all_seen": ("user has", "users have", " seen every item; left out"),
        "num_users_too_short": ("user", "users", " with a single interaction; trained on and not tested"),
        "num_items_unknown": ("item has", "items have", " no training interaction to learn from"),
        "num_test_items_unknown": ("held-out item has", "held-out items have", " no training interaction"),
        "num_users_later": (
            "user has",
            "users have",
            " interactions only after the point in time; neither trained on nor tested",
        ),
        "num_test_repeated": ("later interaction repeats", "later interactions repeat", " an earlier one; not tested"),
        "num_users_left_out": ("user is", "users are", " left out of the training, to be tested by the histories"),
        "num_candidates_unknown": ("given candidate has", "given candidates have", " no training interaction"),
        "num_candidates_seen": ("given candidate", "given candidates", " seen by the user; left out"),
    }
    told = ((data.get(name, 0), *words) for name, words in notes.items())
    return lines + [counted(number, one, several) + rest for number, one, several, rest in told if number]


def _report(recommender: "Recommender") -> dict[str, Any]:
    """Return the result of a fit as plain values for ``--json``."""
    return {
        "metrics": recommender.metrics,
        "errors": recommender.errors,
        "popularity": recommender.popularity,
        "protocol": recommender.protocol,
        "config": recommender.config.to_dict(),
        "plan": recommender.plan.to_dict(),
        "data": recommender.data,
        "seconds": recommender.seconds,
        "training_log": recommender.training_log,
    }


def _save(recommender: "Recommender", out: Path | None, shown: TextIO, checkpoint: Path | None = None) -> None:
    """Save a model that was fitted and say where; a model that cannot be saved there is saved in a temporary folder.

    Args:
        recommender: the model.
        out: folder to save it in.
        shown: where the sentence is printed.
        checkpoint: folder from which the fit goes on where the saving is interrupted.

    Raises:
        FastNCFError: the model is in the temporary folder, or nowhere; the message says so.
    """
    if not rank_variables.is_first_process():
        return
    if out is None:
        print("not saved: give --out to keep the model", file=sys.stderr)
        return
    try:
        recommender.save(out)
    except KeyboardInterrupt as error:
        is_terminated = isinstance(error, Terminated)
        shorter = error if is_terminated else KeyboardInterrupt(f"interrupted while the model was saved to {out}")
        if checkpoint is not None:
            shorter.add_note(f"{checkpoint}: the fit is finished; the same fit with resume=True saves its model")
        raise shorter from None
    except Exception as error:
        raise FastNCFError(f"{short_message(str(error)):.230}; {_save_elsewhere(recommender)}") from error
    print_lines(f"saved to {out}", file=shown)


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
