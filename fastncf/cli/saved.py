"""Commands about a saved model."""

import os
import sys
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastncf.cli.app import Common, Flag, Json, Length, Lengths, OutArgument, PathArgument, as_utf8
from fastncf.cli.messages import USAGE
from fastncf.cli.output import metric_lines, print_frame, print_json, print_lines, print_path, tell
from fastncf.errors import ConfigError, DataError, counted, printable

if TYPE_CHECKING:
    from fastncf.data.ids import Vocabulary


def evaluate(
    model: PathArgument,
    *,
    k: Lengths = None,
    num_candidates: int | None = None,
    full_ranking: bool | None = None,
    metrics: list[str] | None = None,
    candidate_sampling: Literal["uniform", "popularity"] | None = None,
    lists: Flag = False,
    device: str = "auto",
    json: Json = False,
    common: Common | None = None,
) -> None:
    """Rank the held-out items of a saved model again, perhaps with another protocol.

    Parameters
    ----------
    model
        Folder that ``fastncf fit --out`` wrote.
    k
        Length of the ranking that metrics such as HR@k look at; several are separated by commas.
    num_candidates
        Negatives that a held-out item is ranked against.
    full_ranking
        Also rank against the whole catalogue.
    metrics
        Metrics, such as recall or hr,recall. By default those of the fit.
    candidate_sampling
        How candidates are drawn: uniformly, or by popularity.
    lists
        Also measure the lists of recommendations: coverage, mean popularity, Gini index, similarity of their items.
    device
        Device that scores: a torch device, or auto.
    """
    from fastncf.recommender import load

    found = load(model, device=device).evaluate(
        k=k,
        num_candidates=num_candidates,
        full_ranking=full_ranking,
        metrics=metrics,
        candidate_sampling=candidate_sampling,
        lists=lists,
    )
    results, protocol = found
    if json:
        beside = {"errors": found.errors, "popularity": found.popularity}
        print_json({"metrics": results, **beside, "protocol": protocol})
    else:
        print_lines(*metric_lines(results, found.errors, found.popularity), f"protocol: {protocol}")


def recommend(
    model: PathArgument,
    *,
    user: list[str] | None = None,
    users: PathArgument | None = None,
    history: str | None = None,
    all_users: Flag = False,
    k: Length = 10,
    include_seen: Flag = False,
    items: PathArgument | None = None,
    exclude: PathArgument | None = None,
    unknown: Literal["error", "skip", "popular"] = "error",
    titles: PathArgument | None = None,
    out: OutArgument | None = None,
    json: Json = False,
    common: Common | None = None,
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
        File of user ids, each of which is answered once.
    history
        In place of users: the items of a user who is not in the training data, the oldest first, separated by commas;
        or a file with columns of users, items and, perhaps, times.
    all_users
        Recommend to all users of the training data.
    k
        Items per user.
    include_seen
        Also recommend items that the user has already seen.
    items
        File of the only items that may be recommended.
    exclude
        File of items that are never recommended, or of users and items, each of which is left out for its user.
    unknown
        What to do about users who are not in the training data, or items of a history: stop with an error, skip them,
        or recommend popular items.
    titles
        Titles of the items, as for fit. By default those that the model keeps.
    out
        File to write, which ends in .parquet or .csv.
    """
    if sum((bool(user), users is not None, all_users, history is not None)) != 1:
        raise ConfigError(f"recommend needs users, in one of four ways: {USAGE['recommend']}")
    from fastncf.data.readers.id_columns import read_id_file
    from fastncf.recommender import load
    from fastncf.serving.output import require_format

    if out is not None:
        require_format(out)  # before the model is read
    asked: Any = list(map(as_utf8, user)) if user else None
    only: Any = None
    nobody: Any = None
    if users is not None:
        asked = read_id_file(users, ("user",))["user"].unique(maintain_order=True)  # a table has many rows of a user
        _require_ids(asked, users, "user")
    if items is not None:
        only = read_id_file(items, ("item",))["item"]
        _require_ids(only, items, "item")
    if exclude is not None:
        nobody = read_id_file(exclude, ("item", "user"))
    recommender = load(model, titles=titles)
    if users is not None and unknown != "error":
        _tell_unknown(recommender.users, asked, users, _SKIPPED if unknown == "skip" else _POPULAR)
    for path, ids in ((items, only), (exclude, None if nobody is None else nobody["item"])):
        if path is not None:
            _tell_unknown(recommender.items, ids, path, _IGNORED)
    frame = recommender.recommend(
        asked,
        k,
        exclude_seen=not include_seen,
        items=only,
        exclude=nobody,
        unknown=unknown,
        history=None if history is None else _history(history),
        out=out,
    )
    if isinstance(frame, Path):
        print_path(frame, as_json=json)
        return
    if json:
        print_json({"recommendations": frame.to_dicts()})
    else:
        print_frame(frame)


def update(
    model: PathArgument,
    rows: PathArgument,
    *,
    out: OutArgument,
    epochs: int = 0,
    unknown: Literal["error", "skip"] = "error",
    json: Json = False,
    common: Common | None = None,
) -> None:
    """Add new interactions of known and of new users to a saved model, and train further on request.

    Parameters
    ----------
    model
        Folder that ``fastncf fit --out`` wrote.
    rows
        File of new interactions, in any form that fit reads.
    out
        Folder to save the result in; it may be that of the model.
    epochs
        Epochs of further training; with 0 the vectors of the users are computed from their histories.
    unknown
        What to do about rows with items that the model does not know, and rows that lack a value: stop with an error,
        or skip them.
    """
    from fastncf.data.accounts import describe_rows
    from fastncf.data.named import find_source
    from fastncf.persistence import require_savable
    from fastncf.progress import progress_shown
    from fastncf.recommender import load

    require_savable(out)  # before the training, which would be lost otherwise
    recommender = load(model)
    with progress_shown(tell=tell) as callback:
        recommender.update(find_source(rows), epochs=epochs, unknown=unknown, callback=callback, progress=False)
    recommender.save(out)
    if json:
        print_json({"out": str(out), "data": recommender.data, "protocol": recommender.protocol})
    else:
        lines = describe_rows(recommender.data), f"protocol: {recommender.protocol}", f"saved to {out}"
        print_lines(*filter(None, lines))


def info(model: PathArgument, *, plan: Flag = False, json: Json = False, common: Common | None = None) -> None:
    """Print what a saved model is: how it was trained and measured, its data, and its versions.

    Parameters
    ----------
    model
        Folder that ``fastncf fit --out`` wrote.
    plan
        Print its plan as a file of settings, which ``fastncf fit --config`` takes, instead of everything else.
    """
    import fastncf
    from fastncf.data.accounts import describe_rows
    from fastncf.persistence.folder import FORMAT, read_folder
    from fastncf.recommender import load

    written = read_folder(model).description.get("format")
    recommender = load(model)
    if plan:
        from fastncf.plan_file import settings_to_repeat, sizes, to_toml

        settings = settings_to_repeat(recommender.config, recommender.plan)
        lines = sizes(recommender.plan), *map(printable, str(recommender.plan).split("\n"))
        if json:
            print_json({"settings": settings})
        else:
            print(to_toml(settings, lines))
        return
    versions = {"format": written, "newest_format": FORMAT, "fastncf": fastncf.__version__}
    if json:
        about = {name: getattr(recommender, name) for name in ("metrics", "protocol", "data", "found", "seconds")}
        print_json({**about, "plan": recommender.plan.to_dict(), "versions": versions})
        return
    fitted, data = recommender.plan, recommender.data
    epochs = f" for {counted(fitted.num_epochs, 'epoch')}" if fitted.num_epochs else ""
    print_lines(
        f"model:    {fitted.model_in_words}{epochs}",
        f"data:     {counted(data.get('interactions', 0), 'interaction')} of "
        f"{counted(len(recommender.users), 'user')} with "
        f"{counted(len(recommender.items), 'item')}, from {recommender.found.get('source', 'an unknown source')}",
        *(f"rows:     {account}" for account in [describe_rows(data)] if account),
        f"protocol: {recommender.protocol}",
        *metric_lines(recommender.metrics, recommender.errors, recommender.popularity),
        f"versions: format {written} of the folder; this is fastncf {fastncf.__version__}, whose format is {FORMAT}",
    )


_ENDS = (
    ".csv",
    ".tsv",
    ".txt",
    ".dat",
    ".parquet",
    ".feather",
    ".json",
    ".jsonl",
    ".gz",
    ".zip",
    ".bz2",
    ".xz",
    ".zst",
)


def _history(text: str) -> Any:
    """Return the path of a file, or the ids of items that are separated by commas.

    What is neither a file nor has the form of its name is a list.
    """
    path = Path(os.path.expanduser(text))
    if not text:  # whose path is the working folder
        return []
    if os.path.lexists(path) or ("," not in text and (os.sep in text or text.lower().endswith(_ENDS))):
        return path
    return [as_utf8(item.strip()) for item in text.split(",")]


_SKIPPED = "is not in the training data and is skipped", "are not in the training data and are skipped"
_POPULAR = "is not in the training data and gets popular items", "are not in the training data and get popular items"
_IGNORED = "is not in the training data and is ignored", "are not in the training data and are ignored"


def _require_ids(ids: Sized, path: Path, noun: str) -> None:
    """Raise a DataError where a table, such as one of a header alone, holds no id."""
    if not len(ids):
        raise DataError(f"{path}: holds no {noun}; expected at least one")


def _tell_unknown(vocabulary: "Vocabulary", ids: Any, path: Path, what: tuple[str, str]) -> None:
    """Say on stderr how many ids of a file a model does not know, and what is done about one and about several."""
    from fastncf.data.ids import named_ids

    unknown = int((vocabulary.find(named_ids(ids, vocabulary.noun)) < 0).sum())
    if unknown:
        print_lines(
            f"{path}: {unknown:,} of {counted(len(ids), vocabulary.noun)} {what[unknown > 1]}",
            file=sys.stderr,
        )


def similar(
    model: PathArgument,
    *,
    item: list[str] | None = None,
    user: list[str] | None = None,
    k: Length = 10,
    titles: PathArgument | None = None,
    json: Json = False,
    common: Common | None = None,
) -> None:
    """Print the items of a saved model that are most similar to an item, or the users most similar to a user.

    Parameters
    ----------
    model
        Folder that ``fastncf fit --out`` wrote.
    item
        Raw item id; give it once for each item.
    user
        Raw user id, in place of items; give it once for each user.
    k
        Number of similar items or users for each.
    titles
        Titles of the items, as for fit. By default those that the model keeps.
    """
    if bool(item) == bool(user):
        raise ConfigError(f"similar needs items or users: {USAGE['similar']}")
    from fastncf.recommender import load

    recommender, asked = load(model, titles=titles), list(map(as_utf8, item or user or []))
    frame = recommender.similar_items(asked, k) if item else recommender.similar_users(asked, k)
    if json:
        print_json({"similar": frame.to_dicts()})
    else:
        print_frame(frame)


def export(model: PathArgument, out: PathArgument, *, json: Json = False, common: Common | None = None) -> None:
    """Write the vectors of all users and items of a saved model, or the model as ONNX, to files of other programs.

    Parameters
    ----------
    model
        Folder that ``fastncf fit --out`` wrote.
    out
        Folder for users.parquet and items.parquet, or file that ends in .npz; or file that ends in .onnx, beside which
        the ids of users and items are written to .users.parquet and .items.parquet.
    """
    from fastncf.recommender import load

    files = list(map(str, load(model).export(out)))
    if json:
        print_json({"out": str(out), "files": files})
    else:
        print_lines(*files)


def report(
    model: PathArgument,
    *,
    out: OutArgument | None = None,
    titles: PathArgument | None = None,
    json: Json = False,
    common: Common | None = None,
) -> None:
    """Write a page about a saved model: one HTML file that needs no network.

    It shows how the model was measured, HR and NDCG over k beside the most popular items, the epochs, the time of each
    stage, popularity and coverage of recommendations, a map of the items, and a box in which to pick items.

    Parameters
    ----------
    model
        Folder that ``fastncf fit --out`` wrote.
    out
        File to write, which ends in .html. By default report.html in the folder of the model.
    titles
        Titles of the items: u.item, movies.dat, movies.csv, another file with columns item and title, or ml-1m.
    """
    from fastncf.recommender import load
    from fastncf.report import require_packages, require_page_path

    path = require_page_path(model / "report.html" if out is None else out)
    require_packages()
    print_path(load(model).report(path, titles=titles), as_json=json)
