"""The fitted artefact: raw ids in and out, polars frames, one directory on disk."""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastncf.config import Config
from fastncf.device import chunk_bytes, find_device, on
from fastncf.errors import ConfigError, DataError, DataNotFoundError
from fastncf.evaluate import Lists, csr_pairs, metrics, rank_candidates, rank_catalogue
from fastncf.hashing import Stream, key
from fastncf.interactions import Vocabulary
from fastncf.models import build, score_catalogue, score_lists
from fastncf.sampler import sample_candidates
from fastncf.split import Split, with_items

_FORMAT = 1
_DESCRIPTION, _PARAMETERS, _DATA = "fastncf.json", "model.safetensors", "data.safetensors"


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
        model: the ``nn.Module``.
        config: the settings of the fit.
        users: raw user ids.
        items: raw item ids.
        split: what was trained on and what was held out.
        metrics: e.g. ``{"hr@10": ..., "ndcg@10": ..., "mrr": ...}``; keys of the full ranking start with ``full/``.
        protocol: in words, what the metrics were measured on.
        data: counts: users, items, interactions, folded, left_out, too_short.
        seconds: by stage: read, split, sample, train, evaluate, total; sampling overlaps with training.
        history: one dict an epoch: epoch, loss, seconds and, with validation, its metrics.
        found: what was recognised in the source.
    """

    model: nn.Module
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
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

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
        _require_k(k)
        codes = self.users.require(users)
        indptr, indices = self.split.seen()
        starts, seen = torch.from_numpy(indptr), torch.from_numpy(indices)
        num_items = self.split.num_items
        frames = []
        at_once = max(1, chunk_bytes(self.device) // (16 * num_items))
        with torch.inference_mode():
            self.model.eval()
            for start in range(0, len(codes), at_once):
                part = torch.from_numpy(codes[start : start + at_once])
                scores = score_catalogue(self.model, part.to(self.device), num_items).float().cpu().clone()
                lowest = torch.finfo(scores.dtype).min  # above what is excluded, so that no seen item takes its place
                scores.nan_to_num_(nan=lowest, neginf=lowest, posinf=torch.inf)
                if exclude_seen:
                    row, item = csr_pairs(starts, seen, part)
                    scores[row, item] = -torch.inf
                    left = num_items - (starts[part.long() + 1] - starts[part.long()])
                else:
                    left = torch.full((len(part),), num_items)
                frames.append(self._top(part, scores, left, k))
        return pl.concat(frames) if frames else self._frame(codes, np.empty((0, 0), np.float32), np.empty(0, np.int64))

    def similar_items(self, items: Any, k: int = 10) -> pl.DataFrame:
        """The k items whose vectors have the largest cosine with an item's, the item itself left out.

        Returns:
            Columns item, similar_item (raw ids), score (cosine), rank (from 1).

        Raises:
            DataError: an item is not in the training data.
            ConfigError: k is below 1, or the model has no ``item_vectors()``.
        """
        _require_k(k)
        codes = torch.from_numpy(self.items.require(items))
        item_vectors = getattr(self.model, "item_vectors", None)
        if item_vectors is None:
            raise ConfigError(
                f"{type(self.model).__name__} has no vectors to compare items by; "
                f"expected a model with item_vectors() -> (I, D), as mf, gmf, mlp and neumf have"
            )
        with torch.inference_mode():
            vectors = nn.functional.normalize(item_vectors().float(), dim=1).cpu()
            cosine = vectors[codes.long()] @ vectors.T
            cosine[torch.arange(len(codes)), codes.long()] = -torch.inf
            score, item = cosine.topk(min(k, len(self.items) - 1), dim=1)
        return pl.DataFrame(
            {
                "item": self.items.decode(np.repeat(codes.numpy(), item.shape[1])),
                "similar_item": self.items.decode(item.reshape(-1).numpy()),
                "score": score.reshape(-1).numpy(),
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
        user, item = self.users.require(users), self.items.require(items)
        if len(user) != len(item):
            raise DataError(f"score: got {len(user)} users and {len(item)} items; accepted: pairs")
        with torch.inference_mode(), on(self.device):
            self.model.eval()
            pairs = torch.from_numpy(user).to(self.device), torch.from_numpy(item).to(self.device).unsqueeze(-1)
            scores = score_lists(self.model, *pairs).squeeze(-1).float().cpu()
        return pl.DataFrame({"user": self.users.decode(user), "item": self.items.decode(item), "score": scores.numpy()})

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
            lists = Lists.of(users, positives, self.split.test_candidates, self.device)
            against = f"1 + {lists.negatives.shape[1]} given candidates"
        else:
            lists = held_out_lists(self.split, config, users, positives, Stream.CANDIDATES, self.device)
            how = "distinct" if config.distinct_candidates else "repeatable"
            against = f"1 + {config.num_candidates} {how} uniform candidates that the user never touched"
        short = int((lists.negatives < 0).any(1).sum())
        protocol = f"{_HELD_OUT[self.split.rule]}, {len(users)} users, {against}"
        if short:
            protocol += f" ({short} users have fewer)"
        protocol += "; ties count against the held-out item"
        results = metrics(rank_candidates(self.model, lists), config.k)
        if config.full_ranking:
            indptr, indices = with_items(self.split.indptr, self.split.indices, self.split.validation_item)
            ranks = rank_catalogue(self.model, lists.users, lists.positives, indptr, indices, self.split.num_items)
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
        parameters = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        save_file(parameters, directory / _PARAMETERS)
        arrays = {
            "indptr": self.split.indptr,
            "indices": self.split.indices,
            "test_item": self.split.test_item,
            "validation_item": self.split.validation_item,
        }
        if self.split.test_candidates is not None:
            arrays["test_candidates"] = self.split.test_candidates
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, directory / _DATA)
        description = {
            "format": _FORMAT,
            "model_class": type(self.model).__name__,
            "config": self.config.to_dict(),
            "metrics": self.metrics,
            "protocol": self.protocol,
            "data": self.data,
            "seconds": self.seconds,
            "history": self.history,
            "found": self.found,
            "rule": self.split.rule,
            "users": {"dtype": str(self.users.ids.dtype), "ids": self.users.ids.to_list()},
            "items": {"dtype": str(self.items.ids.dtype), "ids": self.items.ids.to_list()},
        }
        with (directory / _DESCRIPTION).open("w", encoding="utf-8") as file:
            json.dump(description, file)
            file.flush()
            os.fsync(file.fileno())

    def _top(self, users: Tensor, scores: Tensor, left: Tensor, k: int) -> pl.DataFrame:
        k = min(k, scores.shape[1])
        # Sorted stably, so that equal scores come in the order of the ids; topk promises no order among them.
        threshold = scores.topk(k, dim=1).values[:, -1:]
        candidates = torch.where(scores >= threshold, scores, -torch.inf)
        value, item = candidates.sort(dim=1, descending=True, stable=True)
        count = left.clamp(max=k).numpy()
        return self._frame(users.numpy(), value[:, :k].numpy(), count, item[:, :k].numpy())

    def _frame(
        self, users: np.ndarray, scores: np.ndarray, count: np.ndarray, items: np.ndarray | None = None
    ) -> pl.DataFrame:
        kept = np.arange(scores.shape[1]) < count[:, None]
        item = np.empty(0, np.int64) if items is None else items[kept]
        return pl.DataFrame(
            {
                "user": self.users.decode(np.repeat(users, count)),
                "item": self.items.decode(item),
                "score": scores[kept],
                "rank": (np.broadcast_to(np.arange(1, scores.shape[1] + 1), kept.shape)[kept]).astype(np.int32),
            }
        )


def require_savable(target: Path) -> None:
    """Make the parent of a directory that a model is to be saved in, and check that nothing else would be replaced.

    Raises:
        DataError: the directory holds something other than a fastncf model, or cannot be made.
    """
    try:
        free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
        if not free and not (target / _DESCRIPTION).exists():
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


def held_out_lists(
    split: Split,
    config: Config,
    users: np.ndarray,
    positives: np.ndarray,
    stream: Stream,
    device: torch.device,
) -> Lists:
    """Candidate lists drawn with the seed from what each user touched in neither training, validation nor test."""
    negatives = sample_candidates(
        *split.seen(),
        split.num_items,
        users,
        config.num_candidates,
        seed_key=key(config.seed, stream),
        distinct=config.distinct_candidates,
    )
    return Lists.of(users, positives, negatives, device)


def load(directory: str | Path, *, model: nn.Module | None = None, device: str = "cpu") -> Recommender:
    """Read what :meth:`Recommender.save` wrote.

    Args:
        directory: the folder.
        model: an untrained module of the same shape, for a fit whose model was a module of your own.
        device: where the model goes; ``auto`` is CUDA where there is one.

    Raises:
        DataNotFoundError: there is no such folder, or no model in it.
        DataError: a file is damaged, or was written by a newer version.
        ConfigError: the model was a module of your own and none is given.
        DeviceError: the device is not available.
    """
    folder = Path(directory)
    if not (folder / _DESCRIPTION).exists():
        raise DataNotFoundError(f"{folder}: holds no fastncf model (no {_DESCRIPTION})")
    try:
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        data = {name: tensor.numpy() for name, tensor in load_file(folder / _DATA).items()}
        parameters = load_file(folder / _PARAMETERS)
    except (json.JSONDecodeError, SafetensorError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder}: a file is missing or damaged ({error})") from None
    try:
        if description["format"] != _FORMAT:
            raise DataError(f"{folder}: has format {description['format']!r}; this version reads format {_FORMAT}")
        name, fitted = description["model_class"], _described(description, data)
    except (KeyError, TypeError, AttributeError, ConfigError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{folder}: {_DESCRIPTION} is not as expected ({type(error).__name__}: {error}); "
            f"accepted: a folder as save() wrote it, by this version or an older one"
        ) from None
    if model is None:
        model = build(fitted.config, len(fitted.users), len(fitted.items), torch.zeros(len(fitted.items)))
        if type(model).__name__ != name:
            raise ConfigError(f"{folder}: its model is a {name} of your own; pass model= with such a module")
    try:
        model.load_state_dict(parameters)
    except RuntimeError as error:
        raise DataError(f"{folder}: the parameters do not fit the model ({str(error).splitlines()[0]})") from None
    return replace(fitted, model=model.to(find_device(device)).eval())


def _described(description: dict[str, Any], data: dict[str, np.ndarray]) -> Recommender:
    """A recommender by what was saved, its model apart."""
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
        folded=counts["folded"],
        left_out=counts["left_out"],
        too_short=counts["too_short"],
        rule=description["rule"],
        test_candidates=data.get("test_candidates"),
    )
    return Recommender(
        model=nn.Module(),
        config=Config.from_dict(description["config"]),
        users=users,
        items=items,
        split=split,
        metrics=description["metrics"],
        protocol=description["protocol"],
        data=counts,
        seconds=description["seconds"],
        history=description["history"],
        found=description["found"],
    )


def _require_k(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k={k}: expected a whole number from 1")
