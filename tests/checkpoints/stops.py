"""Fits that are stopped at chosen boundaries of batches, resumed until they end, and compared with undisturbed ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastncf
from fastncf.persistence.encoder import encoder_arrays
from fastncf.persistence.pretrained import pretrained_arrays
from fastncf.recommender.fitted import trained_arrays
from fastncf.trainers.recorder import Recorder


class StoppedError(Exception):
    """The injected stop."""


class Stops:
    """Ends a fit at a boundary, after a snapshot that is taken there.

    Args:
        monkeypatch: puts it in the place of the clock of :class:`Recorder`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.num_boundaries = 0
        record = Recorder._record

        def at_boundary(recorder: Recorder, take: Callable[[], Any], place: Callable[[], str]) -> None:
            self.num_boundaries += 1
            if self.left is None:
                return
            self.left -= 1
            if self.left < 0:
                record(recorder, take, place)
                raise StoppedError

        monkeypatch.setattr(Recorder, "at_boundary", at_boundary)

    def run(self, fit: Callable[..., fastncf.Recommender], folder: Path, stops: list[int]) -> fastncf.Recommender:
        """Fit, stop after each number of boundaries in turn, and return what is resumed at last."""
        for number in stops:
            self.left = number
            try:
                return fit(checkpoint=folder, resume=True)
            except StoppedError:
                pass
        self.left = None
        return fit(checkpoint=folder, resume=True)


def require_same(one: fastncf.Recommender, other: fastncf.Recommender) -> None:
    """Compare everything that a fit has found, bit by bit, except for seconds."""
    first, second = (trained_arrays(rec.trained) for rec in (one, other))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(np.asarray(array), np.asarray(second[name]), err_msg=name)
    kept, same = ({**encoder_arrays(rec.encoder), **pretrained_arrays(rec.pretrained)} for rec in (one, other))
    assert kept.keys() == same.keys()
    for name, array in kept.items():
        np.testing.assert_array_equal(array, same[name], err_msg=name)
    assert one.metrics == other.metrics
    assert one.protocol == other.protocol
    assert one.num_kept == other.num_kept
    plans = [rec.plan.to_dict() | {"cost": None} for rec in (one, other)]  # the cost depends on the number of threads
    assert plans[0] == plans[1]
    logs = [[{k: v for k, v in entry.items() if k != "seconds"} for entry in rec.training_log] for rec in (one, other)]
    assert logs[0] == logs[1]
