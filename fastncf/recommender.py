"""Fitted recommender: recommendations by the user's own ids as polars frames, evaluation, saving and loading."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np
import polars as pl

from fastncf import distributed
from fastncf.accelerators import may_have_device
from fastncf.checkpoints import open_checkpoint, recording
from fastncf.checkpoints.fingerprint import data_of, settings_of
from fastncf.config import Config, require_count, require_flag, show
from fastncf.data.accounts import add_counts
from fastncf.data.ids import Vocabulary
from fastncf.data.split import Split
from fastncf.data.titles import read_titles
from fastncf.data.updates import join_others
from fastncf.errors import ConfigError, DataError, DivergedError, printable
from fastncf.evaluation.ranking import scores_by_factors
from fastncf.evaluation.task import rank_task
from fastncf.evaluation.topk import Answer, FactorItems, ModuleItems, flatten, similar_rows, unit_vectors
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.factors import Factors
from fastncf.measuring import Evaluation, Questions, TestSet
from fastncf.memory import require_torch
from fastncf.models import FACTOR_MODELS
from fastncf.numpy_errors import with_usual_errors
from fastncf.persistence.arrays import require_finite
from fastncf.persistence.description import Fields, describe, read_fields
from fastncf.persistence.encoder import encoder_arrays, split_encoder
from fastncf.persistence.folder import DESCRIPTION, FORMAT, Saved, read_folder, write_folder
from fastncf.persistence.plain import UnexpectedError, dump_json, parse_json
from fastncf.plan import Plan
from fastncf.processes import use_one_torch_thread_after_fork
from fastncf.progress import progress_shown
from fastncf.refit import train_on_all
from fastncf.serving.answers import Request
from fastncf.serving.export import export_vectors, require_target
from fastncf.serving.filters import make_filters
from fastncf.serving.frames import Output, require_output, to_pandas
from fastncf.serving.histories import RowsReading, group_histories, is_table, read_rows
from fastncf.serving.onnx_export import SUFFIX as ONNX
from fastncf.serving.onnx_export import export_onnx
from fastncf.serving.output import require_format, write_answers
from fastncf.serving.users import Unknown, find_users
from fastncf.trainers.loop import Progress, ProgressReporter, TrainingLog
from fastncf.updating import KnownModel, add_items, add_rows, train_on

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

_FACTOR_NAMES = "user_embedding.weight", "item_embedding.weight", "user_bias", "item_bias"
"""Names of the parameters of an MF, in the order of Factors."""


@dataclass(repr=False)
class Recommender:
    """A fitted model with its data: made by :func:`fastncf.fit` or :func:`fastncf.load`.

    Attributes:
        trained: an ``nn.Module``, or the factors that a kernel trained; see :attr:`model`.
        config: settings as they were asked for.
        plan: settings that were used, with reasons.
        users: raw user ids.
        items: raw item ids.
        split: training interactions and held-out items, as indices.
        metrics: e.g. ``{"hr@10": ..., "ndcg@10": ..., "mrr": ...}``; keys of the full ranking start with ``full/``.
        errors: standard error of each metric over users.
        popularity: the same metrics of the most popular items, in the same lists.
        protocol: how the metrics were measured, in words.
        data: counts: users, items, interactions, num_users_all_seen, num_users_too_short; num_rows, the rows that were
            read, and what became of those that are no interactions: num_duplicates, num_missing, num_low_rated,
            num_of_other_users (with ``user_fraction``) and num_skipped (in updates), which add up with the interactions
            to num_rows; of what no training interaction has, num_items_unknown, num_test_items_unknown and
            num_candidates_unknown (entries of given candidates); num_candidates_seen, entries of given candidates that
            their user has seen.
        seconds: by section of the fit: read, split, tune, sample, train, evaluate, total; sampling may overlap
            with training.
        training_log: one dict per epoch: epoch, loss, seconds and, with validation, its metrics.
        encoder: what makes vectors of histories, of an ``mf`` whose users have them; otherwise None.
        found: format, columns and rows that were recognised in the source.
        order: (N,) int32, for each user the positions in its row of the split from the oldest interaction to the
            latest; None where the model is trained without it.
        num_kept: for each stage of the plan, the epochs that the parameters are the result of.
        titles: (I,) String, titles of the items, null for one without; None where none were given.
    """

    trained: "nn.Module | Factors"
    config: Config
    plan: Plan
    users: Vocabulary
    items: Vocabulary
    split: Split
    metrics: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    popularity: dict[str, float] = field(default_factory=dict)
    protocol: str = ""
    data: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    training_log: TrainingLog = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    order: np.ndarray | None = None
    num_kept: tuple[int, ...] = ()
    encoder: HistoryEncoder | None = None
    titles: pl.Series | None = None
    _factor_items: FactorItems | None = field(default=None, init=False, repr=False, compare=False)
    _module_factors: tuple[list[Any], Factors] | None = field(default=None, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        """Return what was trained on what, and how it was measured, in at most ten lines."""
        return "\n".join(("Recommender", *(f"  {name}: {value}" for name, value in self._described())))

    def _repr_html_(self) -> str:
        """Return the same as a table, which notebooks show."""
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self._described())
        return f"<table><caption>Recommender</caption>{rows}</table>"

    def _described(self) -> list[tuple[str, str]]:
        """Return what a reader of a notebook wants to know: names and values, each of one line."""
        stage = self.plan.final
        rows = [
            ("model", f"{stage.model:.80}, dim {stage.dim}, {stage.loss:.80}, trained by {stage.optimizer}"),
            ("epochs", f"{len(self.training_log)}"),
            ("users", f"{len(self.users):,}"),
            ("items", f"{len(self.items):,}"),
            ("interactions", f"{self.data.get('interactions', self.split.num_interactions):,}"),
            ("metrics", ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())[:200] or "none"),
            ("protocol", self.protocol[:300] or "none"),
            ("source", str(self.found.get("source", "unknown"))[:200]),
        ]
        return [(name, printable(value)) for name, value in rows]

    @property
    def history(self) -> TrainingLog:
        """Former name of :attr:`training_log`."""
        return self.training_log

    @property
    def model(self) -> "nn.Module":
        """Model as a module; made of the factors, in the same memory, at the first access if a kernel trained them."""
        self.trained = self._as_module()
        return self.trained

    @model.setter
    def model(self, model: "nn.Module") -> None:
        self.trained = model

    def _as_module(self) -> "nn.Module":
        """Return the model as a module, and leave :attr:`trained` as it is: factors answer requests faster."""
        use_one_torch_thread_after_fork()
        if not isinstance(self.trained, Factors):
            return self.trained
        require_torch("the model as a module")
        from fastncf.device import default_factories
        from fastncf.models.mf import MF

        with default_factories():
            return MF.from_factors(self.trained).eval()

    @property
    def device(self) -> "torch.device":
        """Device of the model's parameters."""
        module = self._as_module()
        from fastncf.evaluation.scoring import device_of

        return device_of(module)

    @overload
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
        out: None = None,
        output: Literal["polars"] = "polars",
    ) -> pl.DataFrame: ...

    @overload
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
        out: str | Path,
        output: Output = "polars",
    ) -> Path: ...

    @overload
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
        out: None = None,
        output: Literal["pandas"],
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
            users: one raw user id or many, in any spelling of the same id, such as 7, "7" or 7.0. All users of the
                training data where none are given.
            k: number of items for each user. A user gets fewer only where fewer are left, and none where none is.
            exclude_seen: leave out the items that the user has seen in any file of the fit, held-out ones included.
            items: raw ids of the only items that may be recommended, or a frame with a column of them. Those that the
                model does not know are ignored.
            exclude: raw ids of items that are recommended to nobody, or a frame with a column of them; with a column of
                users beside it, each item is left out for the user of its row alone.
            unknown: what is done about users who are not in the training data: ``error``; ``skip`` them; or recommend
                the items with the most training interactions (``popular``), whose score is that number.
            history: in place of ``users``, what users who are not in the training data have done: raw ids of items of
                one user, the oldest first; or a frame or a file with columns of users, items and, perhaps, times. Only
                an ``mf`` takes it. ``unknown`` then says what is done about items that the model does not know:
                ``error``, or ``skip`` their rows, and users who have no others.
            titles: titles of the items, for a further column behind that of the items: a frame with columns item and
                title, ``u.item``, ``movies.dat``, ``movies.csv`` or a similar file, or the name of a data set; those of
                the recommender, if it has any, where none are given.
            out: a ``.parquet`` or ``.csv`` file that the answer is written to, in memory that does not grow with the
                number of users. A file that is there is replaced when the answer is complete.
            output: library of the frame, ``polars`` or ``pandas``.

        Returns:
            Columns user, item (raw ids), title where titles are known, score (float), rank (from 1), users in the given
            order, best item first; equal scores in the order of the item ids. With ``out``, the path of the file.
            Unknown users who are no integers among integers make text of the column of users. Users of a
            ``history`` are in the order of their ids, and there is no column of them where it is that of one user.

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
            guests = self._with_histories(history, unknown)
            found = guests.recommend(
                None, k, exclude_seen=exclude_seen, items=items, exclude=exclude, titles=titles, out=out
            )
            if isinstance(found, Path):
                return found
            if not is_table(history):
                found.drop_in_place("user")  # drop() uses the threads of Polars, which a forked child lacks
            return _in(output, found)
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
            counts=self.split.item_counts() if asked.unknown else None,
        )
        if path is None:
            return _in(output, request.frame(request.answer()))
        write_answers(request, path)
        return path

    def _with_histories(self, history: Any, unknown: str) -> "Recommender":
        """Return the same model for other users, who are known by their histories."""
        rows, indptr, items = group_histories(read_rows(history, self.items, unknown, "history", self._reading()))
        known = self._known_model()
        vectors, bias = known.new_users(self.plan.final, indptr, items)
        factors = known.factors._replace(user_vectors=vectors, user_bias=bias)
        none = np.full(len(rows.users), -1, dtype=np.int32)
        by_item = np.lexsort((items, np.repeat(np.arange(len(rows.users)), np.diff(indptr))))
        guests = replace(
            self,
            trained=factors,
            users=rows.users,
            split=Split(len(self.items), indptr, items[by_item], none, none, 0, 0, 0, "none"),
            order=None,
        )
        guests._factor_items = self._tiled_items().for_users(factors)
        return guests

    def _require_factors(self) -> Factors:
        """Return the factors of an ``mf``.

        Raises:
            ConfigError: the model is another one, or has no encoder of histories.
        """
        if not isinstance(self.trained, Factors):
            from fastncf.models.mf import MF
            from fastncf.models.scorers import changed_forward

            is_plain = type(self.trained) is MF and changed_forward(self.trained) is None
            factors = self._factors() if is_plain and self.plan.final.model in FACTOR_MODELS else None
            if factors is None:
                raise ConfigError(
                    f"history: a {self.plan.final.model:.80} knows its users by their ids alone; expected model='mf'"
                )
            # a new object for the same parameters would have the items arranged anew at each request
            state = [(parameter, parameter._version) for parameter in self.trained.parameters()]
            kept = self._module_factors
            if kept is None or not all(
                old is new and a == b for (old, a), (new, b) in zip(kept[0], state, strict=True)
            ):
                self._module_factors = kept = state, factors
            return kept[1]
        if self.encoder is None and self.plan.final.history != "none":
            raise ConfigError(
                "history: the model has no encoder of histories, as after a training that diverged, or in a folder of "
                "an older version; expected a new fit"
            )
        return self.trained

    def _known_model(self) -> KnownModel:
        """Return the factors of an ``mf`` with the data that it knows."""
        factors = self._require_factors()
        return KnownModel(factors, self.encoder, self.users, self.items, self.split, self.order)

    @with_usual_errors
    def update(
        self,
        new: Any,
        *,
        epochs: int = 0,
        unknown: Literal["error", "skip"] = "error",
        callback: Callable[[Progress], object] | None = None,
        progress: bool = True,
    ) -> Self:
        """Take new interactions of known and of new users into the histories, and train further on request.

        The vectors of these users are computed from their whole histories: what was trained on, what was held out of
        them, and the new interactions, which count as later ones. Metrics stay those of the fit; :meth:`evaluate` ranks
        held-out items of the other users.

        Args:
            new: a frame or a file with columns of users, items and, perhaps, times.
            epochs: passes over all interactions by which the model is trained further, with half of the learning rate
                of the fit at their start. New items are then taken into the catalogue.
            unknown: without epochs, what is done about rows with items that the model does not know: ``error``, or
                ``skip`` them.
            callback: called after each epoch, see :func:`fastncf.fit`.
            progress: show a bar, see :func:`fastncf.fit`.

        Returns:
            The recommender itself.

        Raises:
            DataNotFoundError: there is no such file.
            DataError: the source cannot be used, or with ``error`` holds an item that the model does not know.
            ConfigError: ``epochs`` is no integer from 0; the model is no ``mf``, or with epochs one that no kernel has
                trained; or it needs the order of its histories and was saved without it.
            DivergedError: the training led to numbers that are not finite; the recommender stays as it was.
        """
        if not is_table(new):
            raise DataError(f"update: got a {type(new).__name__}; expected a frame or a file of users and items")
        epochs = require_count("epochs", epochs, least=0)
        known, stage = self._known_model(), self.plan.final
        if self.plan.uses_order and self.order is None:
            raise ConfigError("update: the model was saved without the order of the histories; expected a new fit")
        rows = read_rows(new, self.items, unknown, "update", self._reading(updates=True), takes_new=epochs > 0)
        if len(rows.items) > len(self.items):
            known = add_items(known, stage, rows.items)
        known, log = add_rows(known, stage, rows), TrainingLog()
        if epochs:
            with progress_shown(callback, is_shown=progress) as shown:
                known, log = train_on(known, self.plan, epochs, ProgressReporter(shown, epochs))
        self.trained, self.encoder, self.users, self.items, self.split, self.order = known
        self._factor_items = None
        self.plan = self.plan.with_everything(self.split)
        how = f"and all trained on for {epochs} epochs" if epochs else "without training"
        self.protocol += f"; afterwards {len(rows.item):,} interactions were added {how}"
        last = self.training_log[-1]["epoch"] if self.training_log else 0
        self.training_log = self.training_log + [entry | {"epoch": entry["epoch"] + last} for entry in log]
        self.data = self.data | {
            "users": len(self.users),
            "items": len(self.items),
            **add_counts(self.data, rows.counts, self.split.num_interactions),
            "num_users_all_seen": self.split.num_users_all_seen,
            "num_items_unknown": int((~self.split.is_known()).sum()),
        }
        return self

    def _reading(self, *, updates: bool = False) -> RowsReading:
        """Return how further interactions are read, which have weights where they update the model's own."""
        columns = {str(role): str(name) for role, name in self.found.get("columns", {}).items()}
        weight = columns.get("weight", "weight") if updates and self.split.weights is not None else None
        return RowsReading(self.config.reading(), columns, weight, self.config.ties)

    def _ranker(self, num_users: int) -> FactorItems | ModuleItems:
        """Return what ranks items for some number of users."""
        if not isinstance(self.trained, Factors):
            return ModuleItems(self.trained, self.split.num_items, num_users)
        return self._tiled_items()

    def _tiled_items(self) -> FactorItems:
        """Return the items of a factorization in the form that answers requests fast, made at the first request."""
        factors = self.trained if isinstance(self.trained, Factors) else self._require_factors()
        if self._factor_items is None or self._factor_items.factors is not factors:
            self._factor_items = FactorItems(factors)
        return self._factor_items

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
        return _in(output, self._with_titles(frame, "similar_item", answer.items, titles, "similar_title"))

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
        return _in(
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
        return _in(output, self._with_titles(frame, "item", np.arange(len(self.items)), None))

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
        return _in(output, self._vector_frame(self.users))

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

    def _factors(self) -> Factors | None:
        """Return the parameters of an ``mf``; None for other models."""
        if isinstance(self.trained, Factors):
            return self.trained
        parameters = _trained_arrays(self.trained)
        if set(parameters) != set(_FACTOR_NAMES):
            return None
        sizes = len(self.users), len(self.items), len(self.users), len(self.items)
        named = zip(_FACTOR_NAMES, sizes, strict=True)
        return Factors(*(parameters[name][:size].float().cpu().numpy() for name, size in named))

    def _vectors(self, noun: str) -> np.ndarray:
        """Return the vectors of all users or items, (n, D) float32.

        Raises:
            ConfigError: the model has none.
        """
        factors, size = self._factors(), len(self.users if noun == "user" else self.items)
        if factors is not None:
            return factors.user_vectors if noun == "user" else factors.item_vectors
        vectors = getattr(self.trained, f"{noun}_vectors", None)
        if vectors is None:
            raise ConfigError(
                f"{type(self.trained).__name__} has no vectors to compare {noun}s by; expected a model with "
                f"{noun}_vectors() -> (n, D), as mf, gmf, mlp and neumf have"
            )
        array: np.ndarray = vectors()[:size].detach().float().cpu().numpy()
        return array

    def _with_titles(
        self, frame: pl.DataFrame, after: str, item_ids: np.ndarray, titles: Any, name: str = "title"
    ) -> pl.DataFrame:
        """Return a frame with a column of titles behind a column of items, where there are titles.

        Args:
            frame: n rows.
            after: name of the column of items.
            item_ids: (n,) integers, the items of the rows.
            titles: a source of titles, or None for those of the recommender.
            name: name of the new column.
        """
        found = self.titles if titles is None else read_titles(titles, self.items)
        if found is None:
            return frame
        position = frame.columns.index(after) + 1
        return frame.insert_column(position, found.gather(item_ids.astype(np.int64)).alias(name))

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
        return _in(output, self._with_titles(frame, "item", item, None))

    @with_usual_errors
    def evaluate(
        self,
        *,
        k: int | Sequence[int] | None = None,
        num_candidates: int | None = None,
        full_ranking: bool | None = None,
        metrics: Sequence[str] | None = None,
        candidate_sampling: Literal["uniform", "popularity"] | None = None,
        lists: bool = False,
    ) -> Evaluation:
        """Rank the held-out test items, with the settings of the fit where no others are given.

        Args:
            k: length of the ranking that metrics such as HR@k look at, or several.
            num_candidates: negatives that each item is ranked against.
            full_ranking: also rank against the whole catalogue.
            metrics: names, see :class:`fastncf.Config`.
            candidate_sampling: how candidates are drawn, ``uniform`` or by ``popularity``.
            lists: also measure the k best items of each tested user: ``coverage``, the share of the catalogue that
                anyone gets; ``popularity``, the mean number of training interactions; ``gini``, the Gini index of how
                often items are recommended; and ``similarity``, the mean cosine of two items of a list.

        Candidates that were given as a file in the fit are used unless another number of them, or another way to draw
        them, is asked for.

        Returns:
            A tuple of the metrics by label and the protocol in words. Its further attributes are ``errors``, standard
            errors over users by the same labels; ``popularity``, the metrics of the most popular items; and ``tables``,
            the values of each user.

        Raises:
            ConfigError: k or num_candidates is no integer of at least 1, a metric is unknown, or nothing is held out.
            InsufficientMemoryError: the memory does not suffice for so many candidates.
            DivergedError: no held-out item has a finite score, so that the metrics would mean nothing.
        """
        asked: dict[str, Any] = {
            "k": k,
            "num_candidates": num_candidates,
            "full_ranking": full_ranking,
            "metrics": metrics,
            "candidate_sampling": candidate_sampling,
        }
        config = replace(self.config, **{name: value for name, value in asked.items() if value is not None})
        is_redrawn = num_candidates is not None or candidate_sampling is not None
        questions = Questions.of(self.split, config, is_redrawn=is_redrawn)
        try:
            trained, has_lists = self.trained_for(questions), require_flag("lists", lists)
            vectors = self._directions() if has_lists else None
            return questions.answer(trained, has_lists=has_lists, vectors=vectors)
        except DivergedError as error:
            raise DivergedError(str(error), self) from None

    def _directions(self) -> np.ndarray | None:
        """Return the vectors of the items divided by their lengths, (I, D) float32; None where the model has none."""
        if self._factors() is None and not hasattr(self.trained, "item_vectors"):
            return None
        return unit_vectors(self._vectors("item"))

    def keep(self, evaluation: Evaluation) -> None:
        """Take an evaluation for that of the fit: its metrics, and what belongs to them."""
        self.metrics, self.protocol = evaluation
        self.errors, self.popularity = evaluation.errors, evaluation.popularity

    def trained_for(self, questions: Questions) -> "nn.Module | Factors":
        """Return the model for the users of a test set: its own, or others who are known by their histories."""
        others = self.split.others
        if not questions.test.are_others or others is None or not isinstance(self.trained, Factors):
            return self.trained
        known = self._known_model()
        vectors, _ = known.new_users(self.plan.final, *others.histories)
        return known.factors._replace(user_vectors=vectors, user_bias=np.zeros(len(vectors), dtype=np.float32))

    @with_usual_errors
    def refit(
        self,
        *,
        callback: Callable[[Progress], object] | None = None,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Train again on all interactions, the held-out ones included, by the plan that was measured.

        The metrics stay those that were measured before, and :attr:`protocol` says so; a model in which nothing is held
        out cannot be measured any more. The result is that of ``fit`` with ``holdout=None``, with as many epochs as an
        early stopping has kept. What :meth:`update` has added is trained on as well.

        Args:
            callback: called after each epoch, see :func:`fastncf.fit`.
            progress: show a bar, see :func:`fastncf.fit`.
            checkpoint: folder for the state of this training, see :func:`fastncf.fit`; not that of the fit.
            resume: go on from the state in ``checkpoint``, if there is one.

        Within a process group all ranks call it, as they do :func:`fastncf.fit`.

        Returns:
            The recommender itself, trained anew.

        Raises:
            ConfigError: the model is a module of the user's own, whose untrained parameters are gone; it was saved by
                a version that did not keep the order of the interactions; or a trainer of its plan cannot train here.
            DivergedError: the training led to numbers that are not finite; the recommender stays as it was.
        """
        self._require_refittable()
        split, order, users = join_others(self.split, self.order, self.users)
        with (
            distributed.together(),
            progress_shown(callback, is_shown=progress if distributed.is_first() else False) as shown,
            open_checkpoint(checkpoint, resume=resume) as kept,
        ):
            if kept is not None:
                kept.require_same(
                    settings={**settings_of(self.config, None), "epochs of the stages": list(self.num_kept)},
                    data=data_of(users, self.items, split, order),
                )
                kept.resumed_plan([self.plan])
            reporter = ProgressReporter(shown, sum(self.num_kept or (self.plan.num_epochs,)))
            with reporter.stage("train"), recording(kept, self.plan) as recorder:
                num_kept = self.num_kept or None
                found = train_on_all(self.plan, None, split, order, reporter, num_kept, recorder)
            if kept is not None and found.trained.divergence is None:
                kept.finish()
        if found.trained.divergence is not None or found.trained.model is None:
            raise DivergedError(found.trained.divergence or "", self)
        size = len(found.split.indices)
        self.trained, self.plan, self.split = found.trained.model, found.plan, found.split
        self.order, self.num_kept, self.encoder = found.order, found.trained.num_kept, found.trained.encoder
        self.users = users
        self.protocol += f"; afterwards trained on all {size:,} interactions by the same plan, nothing held out"
        self.data = {**self.data, "users": len(users), "num_items_unknown": int((~self.split.is_known()).sum())}
        seconds = reporter.total()["total"]
        self.seconds = {**self.seconds, "refit": seconds, "total": self.seconds.get("total", 0.0) + seconds}
        return self

    def _require_refittable(self) -> None:
        """Raise a ConfigError for a model that cannot be trained anew from its plan and its data."""
        from fastncf import models
        from fastncf.trainers import require_trainer

        if self.plan.final.model not in models.names():
            raise ConfigError(
                f"refit: the model is a module of your own ({self.plan.final.model:.80}), whose untrained parameters "
                f"are gone; expected fit(data, model=..., holdout=None) with a new module"
            )
        if self.plan.uses_order and self.order is None:
            raise ConfigError(
                "refit: the model was saved without the order of the interactions, by an older version; expected "
                "fit(data, holdout=None)"
            )
        for stage in self.plan.stages:
            if stage.epochs:
                require_trainer(stage, "refit")

    @with_usual_errors
    def report(self, path: str | Path, *, titles: Any | None = None) -> Path:
        """Write a page about the model: one HTML file that needs no network, for any browser and for phones.

        It shows how the model was measured, HR and NDCG over k beside those of the most popular items, the epochs, the
        time of each stage, how popular and how many the recommended items are, and a map of the items; in a box a
        reader picks items and sees similar ones. It needs the extra ``report``: Altair and vl-convert.

        Args:
            path: the file; an older report is replaced.
            titles: titles of the items, which the page shows in place of ids: a frame with columns item and title,
                ``u.item``, ``movies.dat``, ``movies.csv`` or a similar file, or the name of a data set.

        Returns:
            The path.

        Raises:
            DataNotFoundError: there is no such file of titles.
            DataError: the titles cannot be used; the file is no report, or cannot be written.
            FastNCFError: the extra ``report`` is not installed.
        """
        from fastncf.report import HeldOut, write_report

        held_out = None
        if self.split.holdout != "none" and len(TestSet.of(self.split).users):
            questions = Questions.of(self.split, self.config)
            held_out = HeldOut(questions.candidates, rank_task(self.trained_for(questions), questions.candidates))
        fixed = None if self.encoder is None else self._known_model().fixed_items(self.plan.final)
        return write_report(self, held_out, path, titles, fixed=fixed)

    @with_usual_errors
    def save(self, directory: str | Path) -> None:
        """Write the model, its plan, its data and its ids to a folder: safetensors and JSON.

        The folder holds the older model or the new one at every moment, also for those who read it meanwhile, and after
        a kill or a loss of power. Files of others in it stay as they are.

        Args:
            directory: a new or empty folder, or one with an older model, which is replaced. Links are followed, and
                hidden files do not count.

        Raises:
            DataError: the folder holds something other than a fastncf model, or cannot be written; or the model holds
                what :func:`load` would refuse, such as parameters that are not finite. An older model stays.
        """
        _require_folder(directory)
        use_one_torch_thread_after_fork()
        parameters: dict[str, Any]
        extra_state: dict[str, Any] = {}
        if isinstance(self.trained, Factors):
            parameters, class_name = _trained_arrays(self.trained), "MF"
        else:
            from fastncf.models.state import savable_state

            (parameters, extra_state), class_name = savable_state(self.trained), type(self.trained).__name__
        parameters |= encoder_arrays(self.encoder)
        fields = Fields(**{name: getattr(self, name) for name in Fields.__annotations__})  # type: ignore[typeddict-item]
        try:
            require_finite(_trained_arrays(self.trained))
            description, data = describe(class_name, extra_state, fields)
            read_fields(parse_json(dump_json({"format": FORMAT, **description}).encode("utf-8")), data, None, FORMAT)
        except (UnexpectedError, ConfigError) as error:
            raise DataError(
                f"{directory}: nothing is saved, since {error!s:.300}; expected a model that fit() made"
            ) from None
        write_folder(directory, Saved(description, data, parameters))


def _require_folder(directory: Any) -> None:
    """Raise a ConfigError for what is no path."""
    if not isinstance(directory, str | os.PathLike):
        raise ConfigError(f"directory={show(directory)}: expected the path of a folder")


def _in(output: Output, frame: pl.DataFrame) -> "pl.DataFrame | pd.DataFrame":
    """Return a frame as one of a library."""
    return to_pandas(frame) if output == "pandas" else frame


def _similar_frame(vocabulary: Vocabulary, answer: Answer) -> pl.DataFrame:
    """Return users or items with those that are similar to them, as a frame."""
    noun = vocabulary.noun
    ids = vocabulary.decode(answer.users, noun), vocabulary.decode(answer.items, f"similar_{noun}")
    return pl.DataFrame([*ids, pl.Series("score", answer.scores), pl.Series("rank", answer.ranks)])


@with_usual_errors
def load(
    directory: str | Path,
    *,
    model: "nn.Module | None" = None,
    device: str = "cpu",
    titles: Any = None,
    verify: bool = True,
) -> Recommender:
    """Read what :meth:`Recommender.save` wrote, in this version or an older one.

    Everything is checked before it is used: the checksums of the files, the types, shapes and ranges of all that they
    hold, and whether the parameters fit the model. No code of the folder is run.

    Args:
        directory: the folder.
        model: an untrained module of the same shape, for a fit whose model was a module of the user's own.
        device: where the model goes; ``auto`` is CUDA where it is available.
        titles: titles of the items in place of those that were saved, see :meth:`Recommender.recommend`.
        verify: whether to compare the SHA-256 of each file with what was saved. Without it a load takes about half the
            time, and a flipped bit may go unnoticed; types, shapes and ranges are checked all the same.

    Raises:
        DataNotFoundError: there is no such folder, or no model in it; or no such file of titles.
        DataError: a file is damaged, or was written by a newer version.
        ConfigError: the model was a module of the user's own and none is given; or ``verify`` is no truth value.
        DeviceError: the device is not available.
    """
    _require_folder(directory)
    if model is not None:
        require_torch("load: a module of your own")
    use_one_torch_thread_after_fork()
    folder = Path(directory)
    saved = read_folder(folder, verify=require_flag("verify", verify))
    try:
        class_name, extra_state, fields = read_fields(saved.description, saved.data, model, FORMAT)
    except (UnexpectedError, ConfigError) as error:
        raise DataError(
            f"{folder}: {DESCRIPTION} is not as expected ({error!s:.300}); "
            f"expected a folder as save() wrote it, in this version or an older one"
        ) from None
    dim, num_items = fields["plan"].final.dim, len(fields["items"])
    try:
        parameters, encoder = split_encoder(saved.parameters, num_items, dim)
    except UnexpectedError as error:
        raise DataError(
            f"{folder}: the encoder of histories does not fit the model ({error!s:.300}); expected what save() wrote"
        ) from None
    state = {**parameters, **extra_state}
    try:
        if model is None:
            trained = _registered_model(fields, class_name, state, folder)
        else:
            trained = _with_parameters(model, state)
        require_finite(_trained_arrays(trained))
    except UnexpectedError as error:
        raise DataError(
            f"{folder}: the parameters do not fit the model ({error!s:.300}); expected those that save() wrote"
        ) from None
    recommender = Recommender(trained=_on_device(trained, device), **fields, encoder=encoder)
    if titles is not None:
        recommender.titles = read_titles(titles, recommender.items)
    return recommender


def _registered_model(fields: Fields, class_name: str, state: Mapping[str, Any], folder: Path) -> "nn.Module | Factors":
    """Return the registered model that was trained; factors where its parameters are.

    Raises:
        ConfigError: the model is not registered.
        UnexpectedError: the parameters have other names, shapes or dtypes than those of the model.
    """
    from fastncf import models

    stage, num_users, num_items = fields["plan"].final, len(fields["users"]), len(fields["items"])
    if stage.model in models.FACTOR_MODELS and class_name == "MF":
        shapes = (num_users, stage.dim), (num_items, stage.dim), (num_users,), (num_items,)
        _require_forms(state, {name: (shape, "float32") for name, shape in zip(_FACTOR_NAMES, shapes, strict=True)})
        return Factors(*(state[name] for name in _FACTOR_NAMES))
    require_torch(f"load: a saved {stage.model!r:.80}")
    if stage.model not in models.names() or models.get(stage.model).__name__ != class_name:
        raise ConfigError(
            f"{folder}: its model is a {class_name!r:.80} of the user's own; expected model= with such a module"
        )
    is_own = not models.get(stage.model).__module__.startswith(f"{models.__name__}.")
    try:
        forms = models.parameter_forms(stage, num_users, num_items)
    except Exception as error:  # whatever a constructor raises for sizes that no fit can have had
        if not is_own:
            raise UnexpectedError(f"it cannot be built: {str(error)[:200]}") from None
    else:
        _require_forms(state, forms)
    if not is_own:
        # buffers as well: a module of the user's own may hold infinities in a mask
        require_finite({name: value for name, value in state.items() if hasattr(value, "dtype")})
    model = models.build(stage, num_users, num_items, np.zeros(num_items, dtype=np.int64))
    return _with_parameters(model, state)


def _require_forms(parameters: Mapping[str, Any], forms: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Raise an error unless parameters have the names, shapes and dtypes that are expected."""
    tensors = {name for name, value in parameters.items() if hasattr(value, "dtype")}  # others are extra states
    if tensors != set(forms):
        names = ", ".join(sorted(tensors ^ set(forms)))
        raise UnexpectedError(f"missing or unknown: {names:.200}")
    for name, (shape, dtype) in forms.items():
        found = tuple(parameters[name].shape), str(parameters[name].dtype).removeprefix("torch.")
        if found != (shape, dtype):
            raise UnexpectedError(f"{name} has shape {found[0]} and dtype {found[1]}; expected {shape} and {dtype}")


def _trained_arrays(trained: "nn.Module | Factors") -> dict[str, Any]:
    """Return what was trained, by name: parameters, as arrays or tensors in the same memory, and no buffers."""
    if isinstance(trained, Factors):
        return dict(zip(_FACTOR_NAMES, trained, strict=True))
    return {name: parameter.detach() for name, parameter in trained.named_parameters()}


def _with_parameters(model: "nn.Module", state: Mapping[str, Any]) -> "nn.Module":
    """Return a module after its state was replaced: parameters and buffers of the same shapes, and extra states."""
    import torch

    try:
        model.load_state_dict(
            {name: torch.as_tensor(value) if hasattr(value, "dtype") else value for name, value in state.items()}
        )
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UnexpectedError(" ".join(str(error).split())) from None
    return model


def _on_device(trained: "nn.Module | Factors", device: str) -> "nn.Module | Factors":
    """Return a model in evaluation mode on a device; factors stay what they are on a CPU, without importing torch."""
    if isinstance(trained, Factors):
        if device == "cpu" or (device == "auto" and not may_have_device()):
            return trained
        require_torch(f"device={show(device)}")
        from fastncf.models.mf import MF

        module: nn.Module = MF.from_factors(trained)
    else:
        module = trained
    from fastncf.device import find_device

    return module.to(find_device(device)).eval()
