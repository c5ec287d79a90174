"""Vectors of users and items: frames, files, and what is similar."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import polars as pl

from fastncf.config import require_count
from fastncf.data.ids import Vocabulary
from fastncf.evaluation.topk import Answer, flatten, similar_rows
from fastncf.numpy_errors import with_usual_errors
from fastncf.recommender.fitted import FittedModel
from fastncf.serving.export import export_vectors, require_target
from fastncf.serving.frames import Output, in_library, require_output
from fastncf.serving.onnx_export import SUFFIX as ONNX
from fastncf.serving.onnx_export import export_onnx

if TYPE_CHECKING:
    import pandas as pd


class Vectors(FittedModel):
    """Vectors of a fitted model, and similar users and items."""

    @overload
    def similar_items(
        self, items: Any, k: int = 10, *, titles: Any = None, output: Literal["polars"] = "polars"
    ) -> pl.DataFrame: ...

    @overload
    def similar_items(
        self, items: Any, k: int = 10, *, titles: Any = None, output: Literal["pandas"]
    ) -> "pd.DataFrame": ...

    @with_usual_errors
    def similar_items(
        self, items: Any, k: int = 10, *, titles: Any = None, output: Output = "polars"
    ) -> "pl.DataFrame | pd.DataFrame":
        """Return the k items whose vectors have the largest cosine with that of an item, the item itself left out.

        Args:
            items: one raw item id or many.
            k: number of similar items for each item; fewer are returned where there are fewer.
            titles: see :meth:`recommend`.
            output: see :meth:`recommend`.

        Returns:
            Columns item, similar_item (raw ids), score (cosine), rank (from 1); equal cosines in the order of the ids.
            With titles, title and similar_title as well.

        Raises:
            DataError: an item is not in the training data.
            ConfigError: k is no integer of at least 1, or the model has no ``item_vectors()``.
        """
        require_output(output)
        k, indices = require_count("k", k), self.items.require(items)
        found = similar_rows(self._vectors("item"), indices, k)
        answer = flatten(indices, found)
        frame = _similar_frame(self.items, answer)
        frame = self._with_titles(frame, "item", answer.users, titles)
        return in_library(output, self._with_titles(frame, "similar_item", answer.items, titles, "similar_title"))

    @overload
    def similar_users(self, users: Any, k: int = 10, *, output: Literal["polars"] = "polars") -> pl.DataFrame: ...

    @overload
    def similar_users(self, users: Any, k: int = 10, *, output: Literal["pandas"]) -> "pd.DataFrame": ...

    @with_usual_errors
    def similar_users(self, users: Any, k: int = 10, *, output: Output = "polars") -> "pl.DataFrame | pd.DataFrame":
        """Return the k users whose vectors have the largest cosine with that of a user, the user left out.

        Args:
            users: one raw user id or many.
            k: number of similar users for each user; fewer are returned where there are fewer.
            output: see :meth:`recommend`.

        Returns:
            Columns user, similar_user (raw ids), score (cosine), rank (from 1); equal cosines in the order of the ids.

        Raises:
            DataError: a user is not in the training data.
            ConfigError: k is no integer of at least 1, or the model has no ``user_vectors()``.
        """
        require_output(output)
        k, indices = require_count("k", k), self.users.require(users)
        return in_library(
            output, _similar_frame(self.users, flatten(indices, similar_rows(self._vectors("user"), indices, k)))
        )

    @overload
    def item_vectors(self, *, output: Literal["polars"] = "polars") -> pl.DataFrame: ...

    @overload
    def item_vectors(self, *, output: Literal["pandas"]) -> "pd.DataFrame": ...

    def item_vectors(self, *, output: Output = "polars") -> "pl.DataFrame | pd.DataFrame":
        """Return the vectors of all items.

        Args:
            output: see :meth:`recommend`.

        Returns:
            Columns item (raw ids, ascending) and vector (an array of D float32). For ``mf`` also bias: there the dot
            product of a user's and an item's vector plus both biases is the score. With titles also title.

        Raises:
            ConfigError: the model has no ``item_vectors()``.
        """
        require_output(output)
        frame = self._vector_frame(self.items)
        return in_library(output, self._with_titles(frame, "item", np.arange(len(self.items)), None))

    @overload
    def user_vectors(self, *, output: Literal["polars"] = "polars") -> pl.DataFrame: ...

    @overload
    def user_vectors(self, *, output: Literal["pandas"]) -> "pd.DataFrame": ...

    def user_vectors(self, *, output: Output = "polars") -> "pl.DataFrame | pd.DataFrame":
        """Return the vectors of all users, histories included: columns user, vector and, for ``mf``, bias.

        The columns are those of :meth:`item_vectors`, and ``output`` is that of :meth:`recommend`.

        Raises:
            ConfigError: the model has no ``user_vectors()``.
        """
        require_output(output)
        return in_library(output, self._vector_frame(self.users))

    def export(self, path: str | Path) -> list[Path]:
        """Write the vectors of all users and items, or the model itself, to files that other programs read.

        Args:
            path: a file whose name ends in ``.npz``, with the arrays user_ids, user_vectors, item_ids, item_vectors
                and, for ``mf``, user_bias and item_bias; or a folder, which gets users.parquet and items.parquet with
                the columns of :meth:`user_vectors` and :meth:`item_vectors`; or a file whose name ends in ``.onnx``,
                with the inputs ``user`` and ``item``, (n,) int64 for any n, and the output ``score``, (n,) float32,
                the scores of :meth:`score`. The inputs are positions in the columns of ids of two more files: for
                model.onnx, model.users.parquet and model.items.parquet. Files that are there are replaced.

        Returns:
            The paths of the files.

        Raises:
            ConfigError: the name of the path ends in anything else, the model has no such vectors, or torch cannot
                write it as ONNX.
            FastNCFError: ONNX is asked for, and torch or the extra ``onnx`` is not installed.
            DataNotFoundError: a folder does not exist.
            DataError: a file cannot be written.
        """
        target = require_target(path)
        if target.suffix.lower() == ONNX:
            return export_onnx(target, self._as_module(), self.users, self.items)
        return export_vectors(target, self.user_vectors(), self.item_vectors())

    def _vector_frame(self, vocabulary: Vocabulary) -> pl.DataFrame:
        """Return the vectors of all users or all items, with biases where the model has them."""
        noun = vocabulary.noun
        columns = [vocabulary.ids.alias(noun), pl.Series("vector", self._vectors(noun))]
        factors = self._factors()
        if factors is not None:
            columns.append(pl.Series("bias", factors.user_bias if noun == "user" else factors.item_bias))
        return pl.DataFrame(columns)


def _similar_frame(vocabulary: Vocabulary, answer: Answer) -> pl.DataFrame:
    """Return users or items with those that are similar to them, as a frame."""
    noun = vocabulary.noun
    ids = vocabulary.decode(answer.users, noun), vocabulary.decode(answer.items, f"similar_{noun}")
    return pl.DataFrame([*ids, pl.Series("score", answer.scores), pl.Series("rank", answer.ranks)])
