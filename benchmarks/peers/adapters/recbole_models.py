"""Models of RecBole (RUC AI Box): NeuMF and SASRec."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.adapters.base import Adapter, Clock
from benchmarks.peers.histories import Histories

_EPOCHS = 100
_LENGTH = 50


class _InTime:
    """Batches of a loader until the time is over."""

    def __init__(self, loader: Any, clock: Clock) -> None:
        self.loader, self.clock, self.count = loader, clock, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if self.clock.is_over():
                return
            self.count += 1
            yield batch


class _RecBole(Adapter):
    name: str
    options: dict[str, Any]

    def prepare(self, histories: Histories) -> None:
        """Write the library's atomic file, and let it read this."""
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import init_seed

        super().prepare(histories)
        folder = Path("recbole_data") / "peer"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "peer.inter", "w", encoding="ascii") as file:
            file.write("user_id:token\titem_id:token\ttimestamp:float\n")
            rows = zip(histories.users(), histories.items, histories.places(), strict=True)
            file.writelines(f"{user}\t{item}\t{place}\n" for user, item, place in rows)
        everything = {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "TO", "group_by": "user", "mode": "full"}
        self.config = Config(
            model=self.name,
            dataset="peer",
            config_dict={
                "data_path": str(folder.parent),
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                "eval_args": everything,
                "use_gpu": False,
                "show_progress": False,
                "state": "ERROR",
                "seed": self.seed,
                "MAX_ITEM_LIST_LENGTH": _LENGTH,
                **self.options,
                **self.settings,
            },
        )
        init_seed(self.seed, True)
        dataset = create_dataset(self.config)
        self.loader, _, _ = data_preparation(self.config, dataset)
        self.dataset = self.loader._dataset
        self.item_of = np.full(histories.num_items, -1, dtype=np.int64)
        known = np.unique(histories.items)
        self.item_of[known] = dataset.token2id("item_id", known.astype(str))
        self.user_of = dataset.token2id("user_id", np.arange(histories.num_users).astype(str))

    def fit(self, clock: Clock) -> str:
        """Run the library's epochs until all are done or the time is over, which may be within an epoch."""
        from recbole.utils import get_model, get_trainer

        self.model = get_model(self.name)(self.config, self.dataset)
        trainer = get_trainer(self.config["MODEL_TYPE"], self.name)(self.config, self.model)
        batches, epoch = _InTime(self.loader, clock), 0
        while epoch < _EPOCHS and not clock.is_over():
            trainer._train_epoch(batches, epoch)
            epoch += 1
        self.model.eval()
        return f"{batches.count:,} batches, {batches.count / len(self.loader):.1f} epochs"

    def catalogue(self, users: np.ndarray) -> np.ndarray:
        """Return the library's own scores; items that it does not know get none."""
        import torch

        known = self.item_of >= 0
        scores = np.full((len(users), self.histories.num_items), -np.inf, dtype=np.float32)
        with torch.no_grad():
            answers = self.known_scores(users, torch.from_numpy(self.item_of[known]))
        scores[:, known] = answers
        return scores

    def known_scores(self, users: np.ndarray, items: Any) -> np.ndarray:
        """Return the scores (n, m) of users (n,) with items (m,) by the library's ids."""
        raise NotImplementedError


class NeuMF(_RecBole):
    """Neural matrix factorization (He et al. 2017)."""

    name = "NeuMF"
    options: dict[str, Any] = {}  # noqa: RUF012

    def known_scores(self, users: np.ndarray, items: Any) -> np.ndarray:
        """Return the scores, a user at a time, since the model scores pairs."""
        import torch
        from recbole.data.interaction import Interaction

        rows = []
        for user in self.user_of[users]:
            pairs = Interaction({"user_id": torch.full_like(items, int(user)), "item_id": items})
            rows.append(self.model.predict(pairs).numpy())
        return np.stack(rows)


class SASRec(_RecBole):
    """Self-attentive sequential recommendation (Kang and McAuley 2018), by the cross entropy over all items."""

    name = "SASRec"
    options: dict[str, Any] = {"train_neg_sample_args": None}  # noqa: RUF012

    def known_scores(self, users: np.ndarray, items: Any) -> np.ndarray:
        """Return the scores after the latest items of each history."""
        import torch
        from recbole.data.interaction import Interaction

        sequences = np.zeros((len(users), _LENGTH), dtype=np.int64)
        lengths = np.zeros(len(users), dtype=np.int64)
        for row, user in enumerate(users):
            latest = self.histories.items[slice(*self.histories.indptr[user : user + 2])][-_LENGTH:]
            sequences[row, : len(latest)] = self.item_of[latest]
            lengths[row] = len(latest)
        asked = Interaction({"item_id_list": torch.from_numpy(sequences), "item_length": torch.from_numpy(lengths)})
        scores: np.ndarray = self.model.full_sort_predict(asked)[:, items].numpy()
        return scores
