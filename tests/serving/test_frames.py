import sys

import pandas as pd
import polars as pl
import pytest

import fastncf
from fastncf.errors import ConfigError, FastNCFError
from fastncf.serving.frames import to_pandas
from tests.conftest import checkerboard


@pytest.fixture(scope="module")
def rec():
    titles = pl.DataFrame({"item": [1, 2, 3], "title": ["a", "b", None]})
    return fastncf.fit(checkerboard(), dim=4, epochs=1, titles=titles)


CALLS = {
    "recommend": lambda rec, **out: rec.recommend([4, 7], k=5, **out),
    "history": lambda rec, **out: rec.recommend(history=[5, 7], k=5, **out),
    "similar_items": lambda rec, **out: rec.similar_items([1, 2], k=3, **out),
    "similar_users": lambda rec, **out: rec.similar_users([1, 2], k=3, **out),
    "score": lambda rec, **out: rec.score([1, 2], [3, 4], **out),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_pandas_frames_hold_what_polars_frames_do_without_pyarrow(rec, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    expected, found = call(rec), call(rec, output="pandas")
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == expected.columns
    for name, dtype in expected.schema.items():
        if dtype.is_numeric():
            assert str(found[name].dtype) == str(expected[name].to_numpy().dtype)
        assert [None if value is None or value != value else value for value in found[name]] == expected[name].to_list()
    assert call(rec, output="polars").equals(expected)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_other_outputs_are_refused(rec, monkeypatch, call):
    with pytest.raises(ConfigError, match=r"^output='arrow': expected one of polars, pandas$"):
        call(rec, output="arrow")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(FastNCFError, match=r"^output='pandas': pandas is not installed"):
        call(rec, output="pandas")


def test_a_pandas_frame_of_answers_goes_in_again(rec):
    frame = rec.recommend([4, 7], k=5, output="pandas")
    again = rec.recommend([4, 7], k=5, exclude=frame[["user", "item"]])
    assert not set(again.select("user", "item").rows()) & set(zip(frame["user"], frame["item"], strict=True))


def test_frames_of_all_dtypes():
    frame = pl.DataFrame(
        {
            "text": ["a", None],
            "wide": pl.Series([2**63, 1], dtype=pl.UInt64),
            "small": pl.Series([0.5, 1.5], dtype=pl.Float32),
            "missing": [1, None],
            "vector": pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float32, 2)),
        }
    )
    found = to_pandas(frame)
    assert found["wide"].tolist() == [2**63, 1]
    assert found["small"].dtype == "float32"
    assert [vector.tolist() for vector in found["vector"]] == frame["vector"].to_list()
    assert to_pandas(frame.clear()).columns.tolist() == frame.columns
