"""SASRec of RecTools (MTS)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.adapters.base import Adapter, Clock
from benchmarks.peers.histories import Histories

_EPOCHS = 100


class SASRec(Adapter):
    """Self-attentive sequential recommendation (Kang and McAuley 2018), with the library's losses."""

    def prepare(self, histories: Histories) -> None:
        """Make the library's data set, with the places in the histories as days."""
        import pandas as pd
        from rectools import Columns
        from rectools.dataset import Dataset

        super().prepare(histories)
        frame = pd.DataFrame(
            {
                Columns.User: histories.users(),
                Columns.Item: histories.items,
                Columns.Weight: 1.0,
                Columns.Datetime: pd.to_datetime(histories.places(), unit="D"),
            }
        )
        self.dataset = Dataset.construct(frame)

    def fit(self, clock: Clock) -> str:
        """Run epochs until all are done or the time is over, which may be within an epoch."""
        self.model = self.make(clock)
        self.model.fit(self.dataset)
        return self.done()

    def fit_in_steps(self, clock: Clock, after_step: Callable[[], None]) -> str:
        """Do the same by single epochs, between which the library keeps the moments of its optimizer."""
        self.model = self.make(clock)
        for _ in range(_EPOCHS):
            self.model.fit_partial(self.dataset, min_epochs=0, max_epochs=1)
            after_step()
            if clock.is_over():
                break
        return self.done()

    def make(self, clock: Clock) -> Any:
        """Return the model before its training."""
        import pytorch_lightning as lightning
        from rectools.models import SASRecModel

        class StopInTime(lightning.Callback):
            """Ends the training when the time is over."""

            def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
                trainer.should_stop = clock.is_over()

        def make_trainer() -> Any:
            return lightning.Trainer(
                max_epochs=_EPOCHS,
                callbacks=[StopInTime()],
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )

        lightning.seed_everything(self.seed)
        return SASRecModel(**self.settings, get_trainer_func=make_trainer, recommend_torch_device="cpu")

    def done(self) -> str:
        """Return what was trained."""
        batches = self.model.fit_trainer.global_step
        return f"{batches:,} batches, {batches * self.model.batch_size / self.histories.num_users:.1f} epochs"

    def topk(self, users: np.ndarray, k: int) -> np.ndarray:
        """Return the library's own recommendations; it has none for users with fewer than two interactions."""
        from rectools import Columns

        found = self.model.recommend(
            users, dataset=self.dataset, k=k, filter_viewed=True, on_unsupported_targets="ignore"
        )
        lists = np.full((self.histories.num_users, k), -1, dtype=np.int32)
        lists[found[Columns.User].to_numpy(), found[Columns.Rank].to_numpy() - 1] = found[Columns.Item].to_numpy()
        return lists[users]

    def score(self, users: np.ndarray, items: np.ndarray) -> None:
        """Return None: the library offers no scores of given pairs."""
