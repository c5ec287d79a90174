"""Requests and training give the same, whatever ``np.seterr`` has set, and leave it as it is."""

import warnings
from copy import deepcopy

import numpy as np
import polars as pl
import pytest

import fastncf
from fastncf.errors import DivergedError
from fastncf.numpy_errors import with_usual_errors
from tests.conftest import checkerboard

NEW = pl.DataFrame({"user": [1, 100], "item": [2, 3]})
FITS = [
    {"loss": "softmax", "history": "sequence"},
    {"loss": "softmax", "history": "sequence", "learning_rate": 1000.0},  # decays of nearly 0 and nearly 1
    {"loss": "bce", "history": "sequence"},
    {"loss": "bce", "history": "none"},
    {"model": "mlp", "layers": (8, 4), "optimizer": "adam"},
]


def requests(settings, folder):
    rec = fastncf.fit(checkerboard(), epochs=1, dim=4, device="cpu", full_ranking=True, **settings)
    answers = [rec.recommend([1, 2]), rec.score([1], [2]), rec.similar_items(2), rec.similar_users(1)]
    answers.append(pl.DataFrame(rec.evaluate().metrics))
    if rec.plan.final.model == "mf":
        answers.append(rec.recommend(history=[2, 3]))
        answers.append(deepcopy(rec).update(NEW).recommend(100))
        if settings.get("learning_rate", 0) < 100:
            answers.append(deepcopy(rec).update(NEW, epochs=1).recommend(100))
        else:  # the first epoch is finite, another one is not
            with pytest.raises(DivergedError):
                deepcopy(rec).update(NEW, epochs=1)
    answers.append(rec.refit().recommend([1, 2]))
    rec.save(folder)
    return [*answers, fastncf.load(folder).recommend([1, 2])]


@pytest.mark.parametrize("settings", FITS, ids=str)
def test_all_requests(settings, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        expected = requests(settings, tmp_path / "model")
    with np.errstate(all="raise"):
        found = requests(settings, tmp_path / "model")
        assert set(np.geterr().values()) == {"raise"}
    for one, other in zip(found, expected, strict=True):
        assert one.equals(other)


def test_settings_are_restored_after_an_error():
    @with_usual_errors
    def fail():
        assert np.geterr()["under"] == "ignore"
        raise KeyError

    with np.errstate(all="raise"):
        with pytest.raises(KeyError):
            fail()
        assert set(np.geterr().values()) == {"raise"}
