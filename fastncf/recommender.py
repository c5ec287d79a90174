"""The fitted artefact: raw ids in and out, polars frames, one directory on disk."""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from fastncf.config import Config
from fastncf.data.csr import merge_items
from fastncf.data.ids import Vocabulary
from fastncf.data.split import Split
from fastncf.errors import ConfigError, DataError
from fastncf.evaluation.candidates import CandidateLists, CandidateSpec, held_out_lists
from fastncf.evaluation.metrics import metrics
from fastncf.evaluation.ranking import ranks_by_factors
from fastncf.kernels.cpu.factors import Factors
from fastncf.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMAT = 1
DESCRIPTION, PARAMETERS, DATA = "fastncf.json", "model.safetensors", "data.safetensors"
_NAMES = "user_embedding.weight", "item_embedding.weight", "user_bias", "item_bias"
"""Of the parameters of an MF, in the order of Factors."""


_HELD_OUT = {
    "latest": "leave-one-out, each user's latest interaction held out",
    "random": "leave-one-out, a random interaction of each user held out",
    "given": "given test set",
}


class Evaluation(NamedTuple):
    """Metrics, and in words what they were measured on."""

    metrics: dict[str, float]
    protocol: str


@dataclass
class Recommender:
    """A fitted model with its data: made by :func:`fastncf.fit` or :func:`fastncf.load`.

    Attributes:
        trained: the ``nn.Module``, or the factors that a kernel trained; see :attr:`model`.
        config: the settings of the fit.
        users: raw user ids.
        items: raw item ids.
        split: what was trained on and what was held out.
        metrics: e.g. ``{"hr@10": ..., "ndcg@10": ..., "mrr": ...}``; keys of the full ranking start with ``full/``.
        protocol: in words, what the metrics were measured on.
        data: counts: users, items, interactions, num_duplicates, num_users_all_seen, num_users_too_short.
        seconds: by stage: read, split, sample, train, evaluate, total; sampling overlaps with training.
        history: one dict an epoch: epoch, loss, seconds and, with validation, its metrics.
        found: what was recognised in the source.
    """

    trained: "nn.Module | Factors"
    config: Config
    users: Vocabulary
    items: Vocabulary
    split: Split
    metrics: dict[str, float] = field(default_factory=dict)
    protocol: str = ""
    data: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> "nn.Module":
        """The module. Where a kernel trained factors, it is made of them, the same memory, when first asked for."""
        if isinstance(self.trained, Factors):
            from fastncf.models.mf import MF

            self.trained = MF.from_factors(self.trained).eval()
        return self.trained

    @model.setter
    def model(self, model: "nn.Module") -> None:
        self.trained = model

    @property
    def device(self) -> "torch.device":
        """Where the model's parameters are."""
        from fastncf.evaluation.scoring import device_of

        return device_of(self.model)

    def recommend(self, users: Any, k: int = 10, *, exclude_seen: bool = True) -> pl.DataFrame:
        """The k items that each user scores highest.

        Args:
            users: one raw user id or many.
            k: items a user.
            exclude_seen: leave out whatever the user has touched (held-out items included). A user with fewer than
                k other items gets as many rows as there are.

        Returns:
            Columns user, item (raw ids), score (float), rank (from 1), users in the given order, best item first;
            equal scores in the order of the item ids.

        Raises:
            DataError: a user is not in the training data.
            ConfigError: k is below 1.
        """
        from fastncf.evaluation.topk import top_items

        _require_k(k)
        codes = self.users.require(users)
        seen = self.split.seen() if exclude_seen else None
        count, item, score = top_items(self.model, codes, self.split.num_items, k, seen)
        kept = np.arange(item.shape[1]) < count[:, None]
        rank = np.arange(1, item.shape[1] + 1, dtype=np.int32)
        return pl.DataFrame(
            {
                "user": self.users.decode(np.repeat(codes, count)),
                "item": self.items.decode(item[kept]),
                "score": score[kept],
                "rank": np.broadcast_to(rank, kept.shape)[kept],
            }
        )

    def similar_items(self, items: Any, k: int = 10) -> pl.DataFrame:
        """The k items whose vectors have the largest cosine with an item's, the item itself left out.

        Returns:
            Columns item, similar_item (raw ids), score (cosine), rank (from 1).

        Raises:
            DataError: an item is not in the training data.
            ConfigError: k is below 1, or the model has no ``item_vectors()``.
        """
        from fastncf.evaluation.topk import similar_items

        _require_k(k)
        codes = self.items.require(items)
        item, score = similar_items(self.model, codes, k)
        return pl.DataFrame(
            {
                "item": self.items.decode(np.repeat(codes, item.shape[1])),
                "similar_item": self.items.decode(item.reshape(-1)),
                "score": score.reshape(-1),
                "rank": np.tile(np.arange(1, item.shape[1] + 1, dtype=np.int32), len(codes)),
            }
        )

    def score(self, users: Any, items: Any) -> pl.DataFrame:
        """Scores of (user, item) pairs, two lists of raw ids of one length.

        Returns:
            Columns user, item, score (the model's logits, higher is better).

        Raises:
            DataError: an id is not in the training data, or the lengths differ.
        """
        from fastncf.evaluation.scoring import score_pairs

        user, item = self.users.require(users), self.items.require(items)
        if len(user) != len(item):
            raise DataError(f"score: got {len(user)} users and {len(item)} items; accepted: pairs")
        scores = score_pairs(self.model, user, item)
        return pl.DataFrame({"user": self.users.decode(user), "item": self.items.decode(item), "score": scores})

    def evaluate(
        self, *, k: int | None = None, num_candidates: int | None = None, full_ranking: bool | None = None
    ) -> Evaluation:
        """Rank the held-out test items; what is not given is as in the fit.

        Candidates that were given as a file in the fit are used unless another number of them is asked for.

        Raises:
            ConfigError: k or num_candidates is below 1.
        """
        changes: dict[str, Any] = {"k": k, "num_candidates": num_candidates, "full_ranking": full_ranking}
        config = replace(self.config, **{name: value for name, value in changes.items() if value is not None})
        users = np.flatnonzero(self.split.test_item >= 0).astype(np.int32)
        positives = self.split.test_item[users]
        if self.split.test_candidates is not None and num_candidates is None:
            lists = CandidateLists(users, positives, self.split.test_candidates)
            against = f"1 + {lists.negatives.shape[1]} given candidates"
        else:
            spec = CandidateSpec(config.num_candidates, config.distinct_candidates, config.seed)
            lists = held_out_lists(self.split, spec, users, positives, Stream.CANDIDATES)
            how = "distinct" if config.distinct_candidates else "repeatable"
            against = f"1 + {config.num_candidates} {how} uniform candidates that the user never touched"
        short = int((lists.negatives < 0).any(1).sum())
        protocol = f"{_HELD_OUT[self.split.holdout]}, {len(users)} users, {against}"
        if short:
            protocol += f" ({short} users have fewer)"
        protocol += "; ties count against the held-out item"
        if isinstance(self.trained, Factors):
            ranks = ranks_by_factors(self.trained, lists)
        else:
            from fastncf.evaluation.ranking import candidate_ranks

            ranks = candidate_ranks(self.trained, lists)
        results = metrics(ranks, config.k)
        if config.full_ranking:
            from fastncf.evaluation.ranking import catalogue_ranks

            excluded = merge_items(self.split.indptr, self.split.indices, self.split.validation_item)
            ranks = catalogue_ranks(self.model, lists, *excluded, self.split.num_items)
            results |= {f"full/{name}": value for name, value in metrics(ranks, config.k).items()}
            protocol += "; full/: against the whole catalogue without training items"
        return Evaluation(results, protocol)

    def save(self, directory: str | Path) -> None:
        """Write the model, its data and its ids to a directory: safetensors and JSON.

        It is written beside and renamed into place: a write that fails leaves the old model.

        Raises:
            DataError: the directory exists and holds something other than a fastncf model, or cannot be made.
        """
        target = Path(directory)
        require_savable(target)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.absolute().parent))
        try:
            self._write(scratch)
            scratch.chmod(0o755)
            if target.exists():
                old = scratch.with_name(scratch.name + "-old")
                target.rename(old)
                try:
                    scratch.rename(target)
                except OSError:
                    old.rename(target)
                    raise
                shutil.rmtree(old)
            else:
                scratch.rename(target)
        finally:
            if scratch.exists():
                shutil.rmtree(scratch)

    def _write(self, directory: Path) -> None:
        if isinstance(self.trained, Factors):
            save_file(dict(zip(_NAMES, self.trained, strict=True)), directory / PARAMETERS)
        else:
            from safetensors.torch import save_file as save_tensors

            parameters = {name: tensor.cpu().contiguous() for name, tensor in self.trained.state_dict().items()}
            save_tensors(parameters, directory / PARAMETERS)
        arrays = {
            "indptr": self.split.indptr,
            "indices": self.split.indices,
            "test_item": self.split.test_item,
            "validation_item": self.split.validation_item,
        }
        if self.split.test_candidates is not None:
            arrays["test_candidates"] = self.split.test_candidates
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, directory / DATA)
        description = {
            "format": FORMAT,
            "model_class": "MF" if isinstance(self.trained, Factors) else type(self.trained).__name__,
            "config": self.config.to_dict(),
            "metrics": self.metrics,
            "protocol": self.protocol,
            "data": self.data,
            "seconds": self.seconds,
            "history": self.history,
            "found": self.found,
            "rule": self.split.holdout,
            "users": {"dtype": str(self.users.ids.dtype), "ids": self.users.ids.to_list()},
            "items": {"dtype": str(self.items.ids.dtype), "ids": self.items.ids.to_list()},
        }
        with (directory / DESCRIPTION).open("w", encoding="utf-8") as file:
            json.dump(description, file)
            file.flush()
            os.fsync(file.fileno())


def require_savable(target: Path) -> None:
    """Make the parent of a directory that a model is to be saved in, and check that nothing else would be replaced.

    Raises:
        DataError: the directory holds something other than a fastncf model, or cannot be made.
    """
    try:
        free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
        if not free and not (target / DESCRIPTION).exists():
            raise DataError(
                f"{target}: exists and is no fastncf model; accepted: a new or empty folder, or an old model"
            )
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be made ({error.strerror}); accepted: a folder that can be written"
        ) from None
    if not os.access(target.absolute().parent, os.W_OK):
        raise DataError(f"{target}: its folder cannot be written; accepted: a folder that can be written")


def _require_k(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k={k}: expected a whole number from 1")
