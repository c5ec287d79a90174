"""Fitted recommender: recommendations by the user's own ids as polars frames, evaluation, saving and loading."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from fastncf.config import Config, require_count
from fastncf.data.csr import merge_items
from fastncf.data.facts import DataFacts
from fastncf.data.ids import Vocabulary
from fastncf.data.split import Split
from fastncf.errors import ConfigError, DataError, DivergedError
from fastncf.evaluation.candidates import CandidateLists, CandidateSpec, held_out_lists
from fastncf.evaluation.metrics import MISS, metrics
from fastncf.evaluation.ranking import ranks_by_factors
from fastncf.kernels.cpu.factors import Factors
from fastncf.memory import require_torch
from fastncf.persistence import DESCRIPTION, Saved, read_folder, write_folder
from fastncf.plan import Plan, make_plan
from fastncf.rng import Stream
from fastncf.trainers.loop import TrainingLog

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMAT = 2
_FACTOR_NAMES = "user_embedding.weight", "item_embedding.weight", "user_bias", "item_bias"
"""Names of the parameters of an MF, in the order of Factors."""

_HELD_OUT = {
    "latest": "leave-one-out, each user's latest interaction held out",
    "random": "leave-one-out, a random interaction of each user held out",
    "given": "given test set",
}


class Evaluation(NamedTuple):
    """Metrics by their labels, and the protocol of their measurement in words."""

    metrics: dict[str, float]
    protocol: str


@dataclass
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
        protocol: how the metrics were measured, in words.
        data: counts: users, items, interactions, num_duplicates, num_users_all_seen, num_users_too_short.
        seconds: by section of the fit: read, split, tune, sample, train, evaluate, total; sampling may overlap
            with training.
        training_log: one dict per epoch: epoch, loss, seconds and, with validation, its metrics.
        found: format, columns and rows that were recognised in the source.
    """

    trained: "nn.Module | Factors"
    config: Config
    plan: Plan
    users: Vocabulary
    items: Vocabulary
    split: Split
    metrics: dict[str, float] = field(default_factory=dict)
    protocol: str = ""
    data: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    training_log: TrainingLog = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def history(self) -> TrainingLog:
        """Former name of :attr:`training_log`."""
        return self.training_log

    @property
    def model(self) -> "nn.Module":
        """Model as a module; made of the factors, in the same memory, at the first access if a kernel trained them."""
        if isinstance(self.trained, Factors):
            require_torch(reads=False)
            from fastncf.device import default_factories
            from fastncf.models.mf import MF

            with default_factories():
                self.trained = MF.from_factors(self.trained).eval()
        return self.trained

    @model.setter
    def model(self, model: "nn.Module") -> None:
        self.trained = model

    @property
    def device(self) -> "torch.device":
        """Device of the model's parameters."""
        from fastncf.evaluation.scoring import device_of

        return device_of(self.model)

    def recommend(self, users: Any, k: int = 10, *, exclude_seen: bool = True) -> pl.DataFrame:
        """Return the k items with the highest scores for each user.

        Args:
            users: one raw user id or many.
            k: number of items for each user.
            exclude_seen: leave out the items that the user has seen, held-out ones included. A user with fewer than
                k other items gets as many rows as there are.

        Returns:
            Columns user, item (raw ids), score (float), rank (from 1), users in the given order, best item first;
            equal scores in the order of the item ids.

        Raises:
            DataError: a user is not in the training data.
            ConfigError: k is no integer from 1.
        """
        from fastncf.evaluation.topk import top_items

        k = require_count("k", k)
        indices = self.users.require(users)
        seen = self.split.seen() if exclude_seen else None
        count, item, score = top_items(self.model, indices, self.split.num_items, k, seen)
        kept = np.arange(item.shape[1]) < count[:, None]
        rank = np.arange(1, item.shape[1] + 1, dtype=np.int32)
        return pl.DataFrame(
            {
                "user": self.users.decode(np.repeat(indices, count)),
                "item": self.items.decode(item[kept]),
                "score": score[kept],
                "rank": np.broadcast_to(rank, kept.shape)[kept],
            }
        )

    def similar_items(self, items: Any, k: int = 10) -> pl.DataFrame:
        """Return the k items whose vectors have the largest cosine with that of an item, the item itself left out.

        Args:
            items: one raw item id or many.
            k: number of similar items for each item; fewer are returned where there are fewer.

        Returns:
            Columns item, similar_item (raw ids), score (cosine), rank (from 1).

        Raises:
            DataError: an item is not in the training data.
            ConfigError: k is no integer from 1, or the model has no ``item_vectors()``.
        """
        from fastncf.evaluation.topk import similar_items

        k = require_count("k", k)
        indices = self.items.require(items)
        item, score = similar_items(self.model, indices, k, self.split.num_items)
        return pl.DataFrame(
            {
                "item": self.items.decode(np.repeat(indices, item.shape[1])),
                "similar_item": self.items.decode(item.reshape(-1)),
                "score": score.reshape(-1),
                "rank": np.tile(np.arange(1, item.shape[1] + 1, dtype=np.int32), len(indices)),
            }
        )

    def score(self, users: Any, items: Any) -> pl.DataFrame:
        """Return the scores of (user, item) pairs.

        Args:
            users: raw user ids (n,).
            items: raw item ids (n,).

        Returns:
            n rows with columns user, item (raw ids), score (the model's logit, higher is better).

        Raises:
            DataError: an id is not in the training data, or the lengths differ.
        """
        from fastncf.evaluation.scoring import score_pairs

        user, item = self.users.require(users), self.items.require(items)
        if len(user) != len(item):
            raise DataError(f"score: users have length {len(user)} and items {len(item)}; expected equal lengths")
        scores = score_pairs(self.model, user, item)
        return pl.DataFrame({"user": self.users.decode(user), "item": self.items.decode(item), "score": scores})

    def evaluate(
        self, *, k: int | None = None, num_candidates: int | None = None, full_ranking: bool | None = None
    ) -> Evaluation:
        """Rank the held-out test items, with the settings of the fit where no others are given.

        Args:
            k: length of the ranking that HR@k and NDCG@k look at.
            num_candidates: negatives that each item is ranked against.
            full_ranking: also rank against the whole catalogue.

        Candidates that were given as a file in the fit are used unless another number of them is asked for.

        Raises:
            ConfigError: k or num_candidates is no integer from 1.
            InsufficientMemoryError: the memory does not suffice for so many candidates.
            DivergedError: no held-out item has a finite score, so that the metrics would mean nothing.
        """
        changes: dict[str, Any] = {"k": k, "num_candidates": num_candidates, "full_ranking": full_ranking}
        config = replace(self.config, **{name: value for name, value in changes.items() if value is not None})
        lists, against = self._test_lists(config, is_redrawn=num_candidates is not None)
        protocol = f"{_HELD_OUT[self.split.holdout]}, {len(lists.users)} users, {against}"
        if num_short := int((lists.negatives < 0).any(1).sum()):
            protocol += f" ({num_short} users have fewer)"
        protocol += "; ties count against the held-out item"
        if isinstance(self.trained, Factors):
            ranks = ranks_by_factors(self.trained, lists)
        else:
            from fastncf.evaluation.ranking import candidate_ranks

            ranks = candidate_ranks(self.trained, lists)
        if len(ranks) and (ranks == MISS).all():
            raise DivergedError(
                "evaluate: no held-out item has a finite score, as after a training that diverged; expected: a model "
                "that was fitted with a smaller learning_rate, l2 or init_std",
                self,
            )
        results = metrics(ranks, config.k)
        if config.full_ranking:
            from fastncf.evaluation.ranking import catalogue_ranks

            excluded = merge_items(self.split.indptr, self.split.indices, self.split.validation_item)
            ranks = catalogue_ranks(self.model, lists, *excluded, self.split.num_items)
            results |= {f"full/{name}": value for name, value in metrics(ranks, config.k).items()}
            protocol += "; full/: against the whole catalogue without training items"
        return Evaluation(results, protocol)

    def _test_lists(self, config: Config, *, is_redrawn: bool) -> tuple[CandidateLists[np.ndarray], str]:
        """Return the test items with their candidates, and in words what the candidates are."""
        users = np.flatnonzero(self.split.test_item >= 0).astype(np.int32)
        positives = self.split.test_item[users]
        if self.split.test_candidates is not None and not is_redrawn:
            lists = CandidateLists(users, positives, self.split.test_candidates)
            return lists, f"1 + {lists.negatives.shape[1]} given candidates"
        spec = CandidateSpec(config.num_candidates, config.distinct_candidates, config.seed)
        how = "without" if config.distinct_candidates else "with"
        return (
            held_out_lists(self.split, spec, users, positives, Stream.CANDIDATES),
            f"1 + {config.num_candidates} candidates drawn uniformly {how} replacement from the items that the user "
            f"has not seen",
        )

    def save(self, directory: str | Path) -> None:
        """Write the model, its plan, its data and its ids to a directory: safetensors and JSON.

        It is written beside the target and renamed into place: a write that fails leaves the old model.

        Args:
            directory: a new or empty folder, or one with an older model, which is replaced.

        Raises:
            DataError: the directory exists and holds something other than a fastncf model, or cannot be made.
        """
        parameters: dict[str, Any]
        extra_state: dict[str, Any] = {}
        if isinstance(self.trained, Factors):
            parameters, class_name = dict(zip(_FACTOR_NAMES, self.trained, strict=True)), "MF"
        else:
            from fastncf.models.state import savable_state

            (parameters, extra_state), class_name = savable_state(self.trained), type(self.trained).__name__
        data = {name: getattr(self.split, name) for name in ("indptr", "indices", "test_item", "validation_item")}
        if self.split.test_candidates is not None:
            data["test_candidates"] = self.split.test_candidates
        description = {
            "format": FORMAT,
            "model_class": class_name,
            "extra_state": extra_state,
            "config": self.config.to_dict(),
            "plan": self.plan.to_dict(),
            "metrics": self.metrics,
            "protocol": self.protocol,
            "data": self.data,
            "seconds": self.seconds,
            "training_log": self.training_log,
            "found": self.found,
            "holdout": self.split.holdout,
            "users": {"dtype": str(self.users.ids.dtype), "ids": self.users.ids.to_list()},
            "items": {"dtype": str(self.items.ids.dtype), "ids": self.items.ids.to_list()},
        }
        write_folder(directory, Saved(description, data, parameters))


def load(directory: str | Path, *, model: "nn.Module | None" = None, device: str = "cpu") -> Recommender:
    """Read what :meth:`Recommender.save` wrote, in this version or an older one.

    Args:
        directory: the folder.
        model: an untrained module of the same shape, for a fit whose model was a module of the user's own.
        device: where the model goes; ``auto`` is CUDA where it is available.

    Raises:
        DataNotFoundError: there is no such folder, or no model in it.
        DataError: a file is damaged, or was written by a newer version.
        ConfigError: the model was a module of the user's own and none is given.
        DeviceError: the device is not available.
    """
    require_torch(reads=False)
    from fastncf.device import find_device

    folder = Path(directory)
    saved = read_folder(folder)
    try:
        version = saved.description["format"]
        if version not in (1, FORMAT):
            raise DataError(
                f"{folder}: has format {version!r}; expected format 1 or {FORMAT}, which this version reads"
            )
        description = _with_current_names(saved.description) if version == 1 else saved.description
        class_name, fields = description["model_class"], _described(description, saved.data, model)
    except (KeyError, TypeError, AttributeError, ConfigError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{folder}: {DESCRIPTION} is not as expected ({type(error).__name__}: {error!s:.300}); "
            f"expected a folder as save() wrote it, in this version or an older one"
        ) from None
    if model is None:
        model = _empty_model(fields, class_name, folder)
    try:
        model.load_state_dict({**saved.parameters, **description.get("extra_state", {})})
    except RuntimeError as error:
        raise DataError(f"{folder}: the parameters do not fit the model ({str(error).splitlines()[0]:.300})") from None
    return Recommender(trained=model.to(find_device(device)).eval(), **fields)


def _empty_model(fields: dict[str, Any], class_name: str, folder: Path) -> "nn.Module":
    """Return a module for the parameters of a registered model."""
    from fastncf import models

    stage = fields["plan"].final
    if stage.model not in models.names() or models.get(stage.model).__name__ != class_name:
        raise ConfigError(
            f"{folder}: its model is a {class_name} of the user's own; expected model= with such a module"
        )
    num_items = len(fields["items"])
    return models.build(stage, len(fields["users"]), num_items, np.zeros(num_items, dtype=np.int64))


def _described(description: dict[str, Any], data: Any, model: "nn.Module | None") -> dict[str, Any]:
    """Return the attributes of the recommender that was saved, without its model."""
    users, items = (
        Vocabulary(
            pl.Series(noun, description[f"{noun}s"]["ids"], dtype=getattr(pl, description[f"{noun}s"]["dtype"])), noun
        )
        for noun in ("user", "item")
    )
    counts = description["data"]
    split = Split(
        num_items=len(items),
        indptr=data["indptr"],
        indices=data["indices"],
        test_item=data["test_item"],
        validation_item=data["validation_item"],
        num_duplicates=counts["num_duplicates"],
        num_users_all_seen=counts["num_users_all_seen"],
        num_users_too_short=counts["num_users_too_short"],
        holdout=description["holdout"],
        test_candidates=data.get("test_candidates"),
    )
    config = Config.from_dict(description["config"])
    is_planned = "plan" in description
    return {
        "config": config,
        "plan": Plan.from_dict(description["plan"]) if is_planned else _former_plan(config, split, description, model),
        "users": users,
        "items": items,
        "split": split,
        "metrics": description["metrics"],
        "protocol": description["protocol"],
        "data": counts,
        "seconds": description["seconds"],
        "training_log": description["training_log"],
        "found": description["found"],
    }


_FORMER_NAMES = {
    "folded": "num_duplicates",
    "left_out": "num_users_all_seen",
    "too_short": "num_users_too_short",
    "rule": "holdout",
    "history": "training_log",
}
"""Names in a description of format 1, and what they are called now."""


def _with_current_names(description: dict[str, Any]) -> dict[str, Any]:
    """Return a description of format 1 with the names of today."""

    def renamed(values: dict[str, Any]) -> dict[str, Any]:
        """Return values by the names of today."""
        return {_FORMER_NAMES.get(name, name): value for name, value in values.items()}

    return {**renamed(description), "data": renamed(description["data"])}


def _former_plan(config: Config, split: Split, description: dict[str, Any], model: "nn.Module | None") -> Plan:
    """Return the plan of a fit whose settings were saved with everything filled in, and no plan."""
    facts = DataFacts(
        num_users=split.num_users,
        num_items=split.num_items,
        num_interactions=len(split.indices),
        num_rows=int(description["found"].get("rows", split.num_interactions)),
        has_order=config.history == "sequence",
        order_reason="as in the fit",
        holdout=split.holdout,
    )
    return make_plan(replace(config, device="cpu", precision="float32"), facts, model)
