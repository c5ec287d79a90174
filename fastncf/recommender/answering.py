"""Recommendations for known users and for new ones, and scores of pairs."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack, get_args, overload

import numpy as np
import polars as pl

from fastncf.config import require_count, require_flag
from fastncf.data.split import Split
from fastncf.data.titles import read_titles
from fastncf.errors import ConfigError, DataError
from fastncf.evaluation.ranking import scores_by_factors
from fastncf.kernels.cpu.factors import Factors
from fastncf.numpy_errors import with_usual_errors
from fastncf.recommender.fitted import FittedModel
from fastncf.serving.answers import Request
from fastncf.serving.filters import make_filters
from fastncf.serving.frames import Output, in_library, require_output
from fastncf.serving.histories import group_histories, is_table, read_rows
from fastncf.serving.output import require_format, write_answers
from fastncf.serving.users import Unknown, find_users

if TYPE_CHECKING:
    import pandas as pd


class Choice(TypedDict, total=False):
    """Who gets which items: arguments of :meth:`Answering.recommend` that all of its overloads have."""

    exclude_seen: bool
    items: Any
    exclude: Any
    unknown: Unknown
    history: Any
    titles: Any


class Answering(FittedModel):
    """Recommendations and scores of a fitted model."""

    @overload
    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        out: None = None,
        output: Literal["polars"] = "polars",
        **choice: Unpack[Choice],
    ) -> pl.DataFrame: ...

    @overload
    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        out: str | Path,
        output: Output = "polars",
        **choice: Unpack[Choice],
    ) -> Path: ...

    @overload
    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        out: None = None,
        output: Literal["pandas"],
        **choice: Unpack[Choice],
    ) -> "pd.DataFrame": ...

    @with_usual_errors
    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        items: Any = None,
        exclude: Any = None,
        unknown: Unknown = "error",
        history: Any = None,
        titles: Any = None,
        out: str | Path | None = None,
        output: Output = "polars",
    ) -> "pl.DataFrame | pd.DataFrame | Path":
        """Return the k items with the highest scores for each user.

        Args:
            users: one raw user id or many, in any spelling of the same id, such as 7, "7" or 7.0. By default all users
                of the training data.
            k: number of items for each user. A user gets fewer only where fewer are left.
            exclude_seen: leave out the items that the user has seen in any file of the fit, held-out ones included.
            items: raw ids of the only items that may be recommended, or a frame with a column of them. Those that the
                model does not know are ignored.
            exclude: raw ids of items that are recommended to nobody, or a frame with a column of them; with a column of
                users beside it, each item is left out for the user of its row alone.
            unknown: what is done about users who are not in the training data: ``error``; ``skip`` them; or recommend
                the items with the most training interactions (``popular``), whose score is that number. A missing id
                among others, such as None or NaN, is left out with both.
            history: in place of ``users``, interactions of users who are not in the training data: raw ids of items of
                one user, the oldest first; or a frame or a file with columns of users, items and, perhaps, times. An
                ``mf`` or ``gmf`` encodes them or solves for the user's vector; a pretrained ``mlp`` or ``neumf`` does
                so with the model that it started from; another one solves by gradients. ``unknown`` then says what is
                done about items that the model does not know: ``error``; ``skip`` their rows, and users who have no
                others; or recommend the most popular items to these (``popular``). Rows that lack a value are left out
                with both.
            titles: titles of the items, for a further column behind that of the items: a frame with columns item and
                title, ``u.item``, ``movies.dat``, ``movies.csv`` or a similar file, or the name of a data set. By
                default those of the recommender, if it has any.
            out: a ``.parquet`` or ``.csv`` file that the answer is written to, in memory that does not grow with the
                number of users. A file that is there is replaced when the answer is complete.
            output: library of the frame, ``polars`` or ``pandas``.

        Returns:
            Columns user, item (raw ids), title where titles are known, score (float), rank (from 1), users in the given
            order, best item first; equal scores in the order of the item ids. With ``out``, the path of the file. If
            users are integers and an unknown one is not, the column of users is text. Users of a ``history`` are in the
            order of their ids, and there is no column of them where it is that of one user.

        Raises:
            DataError: a user is not in the training data; an id is neither an integer nor text; a frame lacks a column;
                none of ``items`` is known; or the file cannot be written.
            DataNotFoundError: the folder of the file does not exist.
            ConfigError: k is no integer of at least 1, ``unknown`` or ``output`` is none of these, or the file has
                another ending.

        Warns:
            UnusedSettingWarning: none of the items of ``exclude`` is in the training data.
        """
        require_output(output)
        if history is not None:
            if users is not None:
                raise ConfigError("recommend: users= and history= are given; expected one of them")
            guests, asked_ids = self._with_histories(history, unknown)
            found = guests.recommend(
                asked_ids,
                k,
                exclude_seen=exclude_seen,
                items=items,
                exclude=exclude,
                unknown="popular",
                titles=titles,
                out=out,
            )
            if isinstance(found, Path):
                return found
            if not is_table(history):
                found.drop_in_place("user")  # drop() uses the threads of Polars, which a forked child lacks
            return in_library(output, found)
        k, path = require_count("k", k), None if out is None else require_format(out)
        asked = find_users(self.users, users, unknown)
        request = Request(
            users=asked,
            filters=make_filters(
                asked,
                self.items,
                self.split,
                exclude_seen=require_flag("exclude_seen", exclude_seen),
                items=items,
                exclude=exclude,
            ),
            items=self.items,
            titles=self.titles if titles is None else read_titles(titles, self.items),
            k=k,
            ranker=self._ranker(len(asked.rows)),
            counts=self._item_counts() if asked.unknown else None,
        )
        if path is None:
            return in_library(output, request.frame(request.answer()))
        write_answers(request, path)
        return path

    def _item_counts(self) -> np.ndarray:
        """Return the number of training interactions of each item, (I,) int64."""
        return self.split.item_counts() if self._counts is None else self._counts

    def _with_histories(self, history: Any, unknown: Unknown) -> tuple[Self, pl.Series]:
        """Return the same model for other users, who are known by their histories, and ids of those to be answered."""
        read = read_rows(
            history, self.users, self.items, unknown, "history", self._reading(), choices=get_args(Unknown)
        )
        rows, indptr, items = group_histories(read)
        trained = self._known_model().for_histories(self.plan, indptr, items)
        none = np.full(len(rows.users), -1, dtype=np.int32)
        by_item = np.lexsort((items, np.repeat(np.arange(len(rows.users)), np.diff(indptr))))
        guests = replace(
            self,
            trained=trained,
            users=rows.users,
            split=Split(len(self.items), indptr, items[by_item], none, none, 0, 0, 0, "none"),
            order=None,
        )
        if isinstance(trained, Factors):
            guests._factor_items = self._tiled_items().for_users(trained)
        guests._counts = self.split.item_counts()
        return guests, read.users.ids if unknown == "popular" else rows.users.ids

    @overload
    def score(self, users: Any, items: Any, *, output: Literal["polars"] = "polars") -> pl.DataFrame: ...

    @overload
    def score(self, users: Any, items: Any, *, output: Literal["pandas"]) -> "pd.DataFrame": ...

    @with_usual_errors
    def score(self, users: Any, items: Any, *, output: Output = "polars") -> "pl.DataFrame | pd.DataFrame":
        """Return the scores of (user, item) pairs.

        Args:
            users: raw user ids (n,).
            items: raw item ids (n,).
            output: see :meth:`recommend`.

        Returns:
            n rows with columns user, item (raw ids), title where titles are known, score (the model's logit, higher is
            better).

        Raises:
            DataError: an id is not in the training data, or the lengths differ.
        """
        require_output(output)
        user, item = self.users.require(users), self.items.require(items)
        if len(user) != len(item):
            raise DataError(f"score: users and items must have equal length ({len(user)} and {len(item)})")
        if isinstance(self.trained, Factors):
            scores = scores_by_factors(self.trained, user, item)
        else:
            from fastncf.evaluation.scoring import score_pairs

            scores = score_pairs(self.trained, user, item)
        frame = pl.DataFrame({"user": self.users.decode(user), "item": self.items.decode(item), "score": scores})
        return in_library(output, self._with_titles(frame, "item", item, None))
