"""``compare()``: models side by side, on the same users, held-out items and candidates, with paired differences."""

import json
import numbers
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from fastncf.config import require_count, require_seed, show
from fastncf.data.ids import Vocabulary
from fastncf.errors import ConfigError, DataError, DivergedError, FastNCFError, counted, printable, type_name
from fastncf.evaluation.metrics import MISS, RankLists, standard_error
from fastncf.evaluation.paired import Difference, holm, paired_difference
from fastncf.evaluation.task import RankingTask, rank_by_popularity, rank_by_scores, rank_task
from fastncf.measuring import FULL, Questions, TestSet
from fastncf.numpy_errors import with_usual_errors
from fastncf.recommender import Recommender, load

_MINUS = re.compile(r"(?<!\S)-(?=\d)")
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|*`<["})
"""Characters that would begin emphasis, code, HTML, a link or a cell; an underscore within a word is none of these."""


@dataclass(frozen=True)
class Comparison:
    """Metrics of M models for the same T users, and the paired differences of each pair of models.

    ``print`` shows both tables; the differences leave out the row of popularity. The confidence intervals are those of
    the percentile bootstrap over users (Efron and Tibshirani 1993, chapter 13). The p-values are those of the test that
    flips the sign of each user's difference at random, and are at least 1 / (samples + 1).

    Attributes:
        names: names of the models.
        values: for each metric by label, such as ``ndcg@10``, the values of the users, (M, T) float64.
        popularity: the same for a ranking by the items' training interactions, (T,) float64 for each metric.
        protocol: what was measured, in words.
        confidence: of the intervals.
        samples: draws of the bootstrap, and of the test.
        seed: determines the draws.
    """

    names: tuple[str, ...]
    values: dict[str, np.ndarray]
    popularity: dict[str, np.ndarray]
    protocol: str
    confidence: float
    samples: int
    seed: int

    def metrics(self) -> pl.DataFrame:
        """Return a row for each model: its name, the mean of each metric, and its standard error over users.

        The column of an error has the name of the metric with `` error`` behind it.
        """
        columns: dict[str, list[Any]] = {"model": list(self.names)}
        for label, values in self.values.items():
            columns[label] = [float(row.mean()) for row in values]
            columns[f"{label} error"] = [standard_error(row) for row in values]
        return pl.DataFrame(columns)

    def differences(self) -> pl.DataFrame:
        """Return a row for each metric and pair of models.

        Columns: metric, first, second (names), difference (mean of the first minus mean of the second), low, high (the
        confidence interval), p, and p_corrected: p for the number of rows of this table, by the method of Holm (1979).
        """
        return self._differences

    @cached_property
    def _differences(self) -> pl.DataFrame:
        rows = [
            (label, self.names[a], self.names[b], *self._difference(values[a], values[b]))
            for label, values in self.values.items()
            for a, b in combinations(range(len(self.names)), 2)
        ]
        names = ["metric", "first", "second", "difference", "low", "high", "p"]
        frame = pl.DataFrame(rows, schema=names, orient="row")
        return frame.with_columns(p_corrected=holm(frame["p"].to_numpy()))

    def _difference(self, first: np.ndarray, second: np.ndarray) -> Difference:
        """Return the difference of two models in one metric, by the values of the users."""
        return paired_difference(first, second, confidence=self.confidence, samples=self.samples, seed=self.seed)

    def __str__(self) -> str:
        """Return both tables as text."""
        return "\n".join((*_aligned(self._metric_cells()), "", *_aligned(self._difference_cells()), "", self._notes()))

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the values of single users as plain values."""
        return {
            "models": self.metrics().to_dicts(),
            "popularity": {label: float(values.mean()) for label, values in self.popularity.items()},
            "differences": self.differences().to_dicts(),
            "protocol": self.protocol,
            "users": self.num_users,
            "confidence": self.confidence,
            "samples": self.samples,
            "seed": self.seed,
        }

    def to_json(self) -> str:
        """Return :meth:`to_dict` as JSON; numbers that are not finite are null."""
        from fastncf.persistence.plain import finite_or_none

        return json.dumps(finite_or_none(self.to_dict()), allow_nan=False)

    def to_markdown(self) -> str:
        """Return both tables in Markdown."""
        return "\n".join(
            (*_markdown(self._metric_cells()), "", *_markdown(self._difference_cells()), "", self._notes())
        )

    def to_latex(self) -> str:
        """Return both tables as LaTeX environments ``tabular`` with the rules of the package booktabs."""
        notes = "".join(f"% {line}\n" for line in self._notes().splitlines())
        return notes + "\n\n".join(map(_latex, (self._metric_cells(), self._difference_cells())))

    @property
    def num_users(self) -> int:
        """Number of the tested users, T."""
        return next(iter(self.values.values())).shape[1]

    def _metric_cells(self) -> list[list[str]]:
        """Return the rows of the first table as text, its heading first."""
        named = {printable(name): [values[at] for values in self.values.values()] for at, name in enumerate(self.names)}
        rows = [["model", *self.values]]
        for name, found in (*named.items(), ("(popularity)", list(self.popularity.values()))):
            rows.append([name, *(f"{values.mean():.4f} ± {standard_error(values):.4f}" for values in found)])
        return rows

    def _difference_cells(self) -> list[list[str]]:
        """Return the rows of the second table as text, its heading first."""
        rows = [["metric", "models", "difference", f"{100 * self.confidence:.4g} % interval", "p", "p corrected"]]
        for label, first, second, difference, low, high, p, corrected in self.differences().iter_rows():
            models, interval = printable(f"{first} - {second}"), f"{low:+.4f} to {high:+.4f}"
            rows.append([label, models, f"{difference:+.4f}", interval, f"{p:.4f}", f"{corrected:.4f}"])
        return rows

    def _notes(self) -> str:
        """Return what the tables show, in words."""
        return (
            f"{counted(self.num_users, 'user')}; {self.protocol}\n"
            f"means ± standard errors over users; intervals by {counted(self.samples, 'draw')} of the bootstrap "
            f"over users, p-values by as many flips of signs, corrected by Holm's method; seed {self.seed}"
        )


@with_usual_errors
def compare(
    *models: Any,
    names: Sequence[str] | None = None,
    k: int | Sequence[int] | None = None,
    num_candidates: int | None = None,
    full_ranking: bool | None = None,
    metrics: Sequence[str] | None = None,
    candidate_sampling: Literal["uniform", "popularity"] | None = None,
    confidence: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Measure models on the same users, held-out items and candidates, and compare each pair of them user by user.

    The first model of fastncf among them determines what is measured: its held-out items, the candidates of its fit,
    and its settings unless others are given here.

    Args:
        *models: two or more of: fitted models, folders of saved ones, and objects with a method ``score(users, items)``
            that takes arrays of raw ids (n,) and returns the scores (n,), higher is better, or a frame with a column
            of this name, whose masked entries count as NaN. Such an object must have been trained on the training
            interactions alone.
        names: names of the models in the tables; otherwise names of folders, models and classes.
        k: length of the ranking that metrics such as HR@k look at, or several.
        num_candidates: negatives that each held-out item is ranked against.
        full_ranking: also rank against the whole catalogue, where objects are asked for the scores of all items.
        metrics: names of metrics, see :class:`fastncf.Config`.
        candidate_sampling: how candidates are drawn, ``uniform`` or by ``popularity``.
        confidence: of the intervals of the differences, above 0 and below 1.
        samples: draws of the bootstrap over users, and of the test.
        seed: determines these draws.

    Raises:
        ConfigError: fewer than two models, or none of fastncf; names that are not one for each model; nothing is held
            out in one; a setting is out of range.
        DataError: two models have different users, items, held-out items or training interactions, so that nothing can
            be compared; or an object returns anything other than a score for each pair.
        DivergedError: a model has no finite score for any held-out item.
    """
    names = _names(models, names)
    confidence, samples, seed = _checked_settings(confidence, samples, seed)
    opened = [_open(model, name) for model, name in zip(models, names, strict=True)]
    at = next((at for at, model in enumerate(opened) if isinstance(model, Recommender)), None)
    if at is None:
        raise ConfigError(
            "compare: none of the models is one of fastncf; expected at least one, by whose held-out items "
            "all of them are measured"
        )
    reference: Recommender = opened[at]
    asked: dict[str, Any] = {
        "k": k,
        "num_candidates": num_candidates,
        "full_ranking": full_ranking,
        "metrics": metrics,
        "candidate_sampling": candidate_sampling,
    }
    config = replace(reference.config, **{name: value for name, value in asked.items() if value is not None})
    is_redrawn = num_candidates is not None or candidate_sampling is not None
    questions = _questions(reference, names[at], config, is_redrawn=is_redrawn)
    for other, name in zip(opened, names, strict=True):
        if isinstance(other, Recommender) and other is not reference:
            _require_same(reference, names[at], other, name)
    users = _tested(reference, questions.test)
    values: dict[str, np.ndarray] = {}
    popularity: dict[str, np.ndarray] = {}
    counts = questions.test.split.item_counts()
    for prefix, task in (("", questions.candidates), (FULL, questions.whole)):
        if task is None:
            continue
        of_models = [
            questions.table(_ranks(model, name, task, questions, users, reference.items)).values
            for model, name in zip(opened, names, strict=True)
        ]
        for label, found in questions.table(rank_by_popularity(counts, task)).values.items():
            popularity[prefix + label] = np.asarray(found, dtype=np.float64)
            values[prefix + label] = np.stack([np.asarray(table[label], dtype=np.float64) for table in of_models])
    return Comparison(names, values, popularity, questions.protocol(), confidence, samples, seed)


def _names(models: Sequence[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    """Return a name for each model, no two of them equal.

    Raises:
        ConfigError: there are fewer than two models, or the given names are not one for each.
    """
    if len(models) < 2:
        raise ConfigError(f"compare: {counted(len(models), 'model')}; expected two or more")
    if names is None:
        found = [_name(model) for model in models]
        taken = {name for name in found if found.count(name) == 1}
        return tuple(name if name in taken else _numbered(name, taken) for name in found)
    is_text = not isinstance(names, str) and all(isinstance(name, str) and name for name in names)
    if not is_text or len(set(names)) != len(models) or len(names) != len(models):
        raise ConfigError(f"names={show(names)}: expected {len(models)} different names, one for each model")
    return tuple(names)


def _numbered(name: str, taken: set[str]) -> str:
    """Return a name with the least number behind it that makes it one of its own, and add it to those that are."""
    numbered = next(text for number in count(1) if (text := f"{name} {number}") not in taken)
    taken.add(numbered)
    return numbered


def _name(model: Any) -> str:
    """Return what a model is called where its name is not given."""
    if isinstance(model, str | os.PathLike):
        return Path(os.fsdecode(model)).resolve().name or str(model)
    if isinstance(model, Recommender):
        return f"{model.plan.final.model:.80}"
    return type(model).__name__


def _open(model: Any, name: str) -> Any:
    """Return a fitted model, or an object that scores.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(model, str | os.PathLike):
        return load(Path(os.fsdecode(model)))
    if isinstance(model, Recommender) or callable(getattr(model, "score", None)):
        return model
    raise ConfigError(
        f"compare: {name:.80} is {type_name(model)}; expected a fitted model, the folder of a saved one, or "
        f"an object with a method score(users, items)"
    )


def _checked_settings(confidence: Any, samples: Any, seed: Any) -> tuple[float, int, int]:
    """Return the settings of the statistics as Python's own numbers.

    Raises:
        ConfigError: one is out of its range.
    """
    is_number = isinstance(confidence, numbers.Real) and not isinstance(confidence, bool)
    if not is_number or not 0 < confidence < 1:
        raise ConfigError(f"confidence={show(confidence)}: expected a number above 0 and below 1, such as 0.95")
    return float(confidence), require_count("samples", samples), require_seed(seed)


def _questions(model: Recommender, name: str, config: Any, *, is_redrawn: bool) -> Questions:
    """Return what is measured.

    Raises:
        ConfigError: nothing is held out.
    """
    if model.split.holdout == "none":
        raise ConfigError(
            f"compare: nothing is held out in {name:.80}, which was trained on all interactions; expected a model of a "
            f"fit that holds items out, before refit()"
        )
    if not len(TestSet.of(model.split).users):
        raise ConfigError(
            f"compare: no held-out item is left in {name:.80}, since update() has taken those of all tested users into "
            f"their histories; expected a model before update()"
        )
    return Questions.of(model.split, config, is_redrawn=is_redrawn)


def _tested(model: Recommender, test: TestSet) -> Vocabulary:
    """Return the raw ids of the users that a test set's indices are of."""
    others = model.split.others
    return others.users if test.are_others and others is not None else model.users


def _require_same(reference: Recommender, reference_name: str, model: Recommender, name: str) -> None:
    """Check that two models know the same users and items, and have the same data held out.

    Raises:
        ConfigError: nothing is held out in the second.
        DataError: says what differs.
    """
    own = _questions(model, name, model.config, is_redrawn=False).test
    wanted = _questions(reference, reference_name, reference.config, is_redrawn=False).test
    both = f"compare: {reference_name:.60} and {name:.60}"
    tail = "expected models of fits to the same data with the same split and seed"
    vocabularies = (
        (reference.users, model.users),
        (reference.items, model.items),
        (_tested(reference, wanted), _tested(model, own)),
    )
    for first, second in vocabularies:
        if difference := _id_of_one(first, second):
            raise DataError(f"{both} do not know the same {first.noun}s ({difference}); {tail}")
    if wanted.are_others != own.are_others or not np.array_equal(wanted.users, own.users):
        raise DataError(f"{both} are tested on different users ({len(wanted.users):,} and {len(own.users):,}); {tail}")
    differs = _user_with_other_items(tuple(wanted.positives), tuple(own.positives))
    if differs is not None:
        user = _tested(reference, wanted).ids[int(wanted.users[differs])]
        raise DataError(f"{both} have different items held out, such as those of user {user!r:.60}; {tail}")
    if not all(map(np.array_equal, wanted.seen(), own.seen())):
        raise DataError(f"{both} were fitted to different interactions; {tail}")


def _id_of_one(first: Vocabulary, second: Vocabulary) -> str:
    """Return in words an id that only one of two vocabularies has, or an empty text."""
    if first.ids.dtype == second.ids.dtype and first.ids.equals(second.ids):
        return ""
    texts = [list(map(str, vocabulary.ids)) for vocabulary in (first, second)]
    for own, other, which in ((texts[0], set(texts[1]), "first"), (texts[1], set(texts[0]), "second")):
        single = next((text for text in own if text not in other), None)
        if single is not None:
            return f"{single!r:.60} is in the {which} only"
    return f"they are {first.ids.dtype} and {second.ids.dtype}"


def _user_with_other_items(first: tuple[np.ndarray, ...], second: tuple[np.ndarray, ...]) -> int | None:
    """Return the first row whose items differ between two CSRs (indptr, items) with as many rows, or None."""
    rows = zip(*(np.split(items, indptr[1:-1]) for indptr, items in (first, second)), strict=True)
    return next((at for at, (own, other) in enumerate(rows) if sorted(own) != sorted(other)), None)


def _ranks(
    model: Any, name: str, task: RankingTask, questions: Questions, users: Vocabulary, items: Vocabulary
) -> RankLists:
    """Return the ranks of the held-out items of a task by a model.

    Raises:
        DataError: an object returns anything other than a score for each pair.
        DivergedError: no held-out item has a finite score.
    """
    if isinstance(model, Recommender):
        ranks = rank_task(model.trained_for(questions), task)
    else:
        try:
            ranks = rank_by_scores(_scorer(model, name, users, items), task)
        except FastNCFError as error:
            raise DataError(f"{name:.80}: {error}") from None
    if len(ranks.ranks) and (ranks.ranks == MISS).all():
        raise DivergedError(f"compare: {name:.80} has no finite score for any held-out item; expected a trained model")
    return ranks


def _scorer(
    model: Any, name: str, users: Vocabulary, items: Vocabulary
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function that scores pairs of indices by an object that scores pairs of raw ids.

    What the object raises goes on, with a note on which model it was and what it was asked for.
    """
    raw_users, raw_items = users.ids.to_numpy(), items.ids.to_numpy()

    def score(user_ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
        try:
            found = model.score(raw_users[user_ids], raw_items[item_ids])
        except Exception as error:
            error.add_note(
                f"compare: the score of {printable(name):.80} was called with two arrays of raw ids, the users and the "
                f"items of {counted(len(user_ids), 'pair')}; expected an array of their scores"
            )
            raise
        column = found["score"] if "score" in getattr(found, "columns", ()) else found
        if hasattr(column, "detach"):  # a torch tensor, perhaps on a device and with a gradient
            column = column.detach().cpu()
            if column.is_floating_point() and column.itemsize < 4:  # such as bfloat16, which NumPy lacks
                column = column.float()
        if isinstance(column, np.ma.MaskedArray) and column.dtype.kind in "fiub":
            column = np.ma.filled(column.astype(np.float64), np.nan)  # an array of NumPy would hold what the mask hides
        return np.asarray(column)

    return score


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return the rows of a table as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _markdown(rows: list[list[str]]) -> list[str]:
    """Return the rows of a table as lines of Markdown."""
    lines = ["| " + " | ".join(cell.translate(_MARKDOWN) for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _latex(rows: list[list[str]]) -> str:
    """Return the rows of a table as an environment of LaTeX."""
    lines = [" & ".join(map(_latex_cell, row)) + r" \\" for row in rows]
    return "\n".join(
        (
            rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        )
    )


def _latex_cell(text: str) -> str:
    """Return the text of a cell as LaTeX, with signs of numbers as such and not as hyphens."""
    return _MINUS.sub("$-$", text.translate(_LATEX).replace("±", r"$\pm$"))
