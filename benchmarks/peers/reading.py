"""From a file to histories."""

from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.full_ranking import read_sequences
from benchmarks.peers.histories import Histories
from fastncf.data.interactions import read_interactions


def read_histories(path: Path) -> Histories:
    """Return the histories of a file: each user's items in the order of time, ties in the order of the rows.

    Args:
        path: interactions with times, such as ``u.data``; or a ``.txt`` file with a line for each user,
            ``user item item ...``, in the order of time.
    """
    found = read_interactions(read_sequences(path) if path.suffix == ".txt" else path)
    assert found.time is not None
    rows = pl.DataFrame({"user": found.user, "item": found.item, "time": found.time})
    rows = rows.sort("time", maintain_order=True).unique(["user", "item"], keep="last", maintain_order=True)
    rows = rows.sort("user", maintain_order=True)
    counts = np.bincount(rows["user"].to_numpy(), minlength=len(found.users))
    return Histories(len(found.items), np.concatenate([[0], np.cumsum(counts)]), rows["item"].to_numpy())
