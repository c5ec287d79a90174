"""The literal loops of the NCF notebook, of :mod:`benchmarks.naive`."""

import time

import numpy as np

from benchmarks.peers.adapters.base import Adapter, Clock
from benchmarks.peers.histories import Histories


class Notebook(Adapter):
    """The notebook's MLP, trained by its loops: a choice for each negative, a row at a time."""

    def prepare(self, histories: Histories) -> None:
        """Make the notebook's data frame."""
        import pandas as pd

        super().prepare(histories)
        self.frame = pd.DataFrame({"userId": histories.users(), "movieId": histories.items})

    def fit(self, clock: Clock) -> str:
        """Run epochs until all are done or the time is over."""
        import torch

        from benchmarks.naive import NCF, Rows, pass_over, sample

        torch.manual_seed(self.seed)
        random = np.random.RandomState(self.seed)
        self.model = NCF(self.histories.num_users, self.histories.num_items)
        optimizer = torch.optim.Adam(self.model.parameters())
        all_items = self.frame["movieId"].unique()
        started, epochs = time.process_time(), 0
        while epochs < self.settings["epochs"]:
            pass_over(self.model, optimizer, Rows(sample(self.frame, all_items, 4, random)))
            epochs += 1
            if clock.is_over(epochs, started):
                break
        return f"{epochs} epochs"

    def catalogue(self, users: np.ndarray) -> np.ndarray:
        """Return the probabilities, a user at a time."""
        import torch

        items = torch.arange(self.histories.num_items)
        with torch.no_grad():
            return np.stack([self.model(torch.full_like(items, int(user)), items).numpy()[:, 0] for user in users])
