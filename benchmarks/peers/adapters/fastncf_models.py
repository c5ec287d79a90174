"""fastncf itself, through its public functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.adapters.base import Adapter, Clock
from benchmarks.peers.histories import Histories


class Snapshot(NamedTuple):
    """A factor model in training, with the interactions and ids that it is trained on."""

    factors: Any
    split: Any
    users: Any
    items: Any

    def topk(self, users: np.ndarray, k: int) -> np.ndarray:
        """Return the best unseen items (n, k) of users (n,), -1 where there are fewer."""
        import polars as pl

        from fastncf.data.csr import Rows
        from fastncf.evaluation.topk import FactorItems
        from fastncf.kernels.cpu.topk import LeftOut

        rows = self.users.encode(pl.Series(users))
        seen = Rows(self.split.indptr, self.split.indices).select(rows)
        best = FactorItems(self.factors).top(rows, k, LeftOut(*seen, np.empty(0, dtype=np.bool_)))
        is_found = np.arange(k) < best.counts[:, None]
        return np.where(is_found, self.items.ids.to_numpy()[np.where(is_found, best.items, 0)], -1)


class FastNCF(Adapter):
    """A fit on all of the given interactions; nothing is held out of them but what the defaults are chosen by."""

    snapshot: Snapshot | None = None

    def prepare(self, histories: Histories) -> None:
        """Make a data frame with the places in the histories as times."""
        import polars as pl

        super().prepare(histories)
        self.frame = pl.DataFrame({"user": histories.users(), "item": histories.items, "time": histories.places()})

    def fit(self, clock: Clock) -> str:
        """Fit."""
        import fastncf

        self.model = fastncf.fit(self.frame, holdout="none", progress=False, seed=self.seed, **self.settings)
        return f"{len(self.model.training_log)} epochs, loss {self.model.plan.final.loss}"

    def fit_in_steps(self, clock: Clock, after_step: Callable[[], None]) -> str:
        """Do what ``fit`` does for a model of one stage, with its choice of settings before the first epoch.

        Settings are chosen as for a file whose last items are held out: with ``holdout=None``, :meth:`fit` chooses them
        on one item of each user less.
        """
        import fastncf
        from fastncf.data.split import hold_out_nothing
        from fastncf.kernels.cpu.factors import Factors
        from fastncf.plan import alternative_plan, trial_of
        from fastncf.train import prepare
        from fastncf.trainers import get
        from fastncf.trainers.stages import finished_model, initial_model, prepared_device
        from fastncf.tuning import choose_l2, choose_plan
        from fastncf.unused import Inputs

        config = fastncf.Config(holdout="none", seed=self.seed, **self.settings)
        columns = dict.fromkeys(("user", "item", "time", "rating", "weight"))
        data, plan = prepare(self.frame, Inputs(None, None, columns, None), config, stacklevel=1)
        split, order = hold_out_nothing(data.split, data.order)
        plan = plan.with_everything(split)
        if (alternative := alternative_plan(config, plan)) is not None:
            trials = trial_of(config, plan), trial_of(config, alternative)
            plan = choose_plan((plan, alternative), trials, split, order)
        plan = choose_l2(plan, split, order)
        (stage,) = plan.stages
        with prepared_device(stage, has_module=False):
            model, trainer_class = initial_model(stage, None, split, []), get(stage.trainer)
            factors = model if isinstance(model, Factors) else model.factors()
            with trainer_class(factors, split, stage, order if stage.history == "sequence" else None) as trainer:
                for number in range(stage.epochs):
                    trainer.epoch(number)
                    trained = finished_model(factors)
                    self.snapshot = Snapshot(trained, split, data.interactions.users, data.interactions.items)
                    after_step()
        return f"{stage.epochs} epochs, loss {stage.loss}"

    def topk(self, users: np.ndarray, k: int) -> np.ndarray:
        """Return the recommendations, those of a model in training where there is one."""
        if self.snapshot is not None:
            return self.snapshot.topk(users, k)
        found = self.model.recommend(users, k)
        lists = np.full((self.histories.num_users, k), -1, dtype=np.int32)
        lists[found["user"].to_numpy(), found["rank"].to_numpy() - 1] = found["item"].to_numpy()
        return lists[users]

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the scores; items without a training interaction, which the model does not know, get none."""
        scores = np.full(items.shape, -np.inf, dtype=np.float32)
        known = np.bincount(self.histories.items, minlength=self.histories.num_items)[items] > 0
        answers = self.model.score(np.repeat(users, known.sum(axis=1)), items[known])
        scores[known] = answers["score"].to_numpy()
        return scores
