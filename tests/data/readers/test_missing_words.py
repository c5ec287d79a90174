"""Words such as NULL in a column of ids: among integers a missing value, among text an id."""

import pandas as pd
import polars as pl
import pytest

import fastncf
from fastncf.data.accounts import num_lost
from fastncf.errors import DataError
from tests.conftest import checkerboard
from tests.data.readers.conftest import check_refusal, read, rows

WORDS = ["NA", "N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", "\\N", "(null)", "#NV"]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("role", ["user", "item"])
@pytest.mark.parametrize("place", [0, 3, 5000])
def test_a_word_among_integers(write, word, role, place):
    ids = [(str(n % 97), str(n % 89 - 5)) for n in range(5000)]
    ids.insert(place, (word, "1") if role == "user" else ("1", word))
    path = write("user,item,time\n" + "".join(f"{user},{item},7\n" for user, item in ids))
    check_refusal(path, f"column '{role}' holds {word!r} in line {place + 2}; expected integers or text; {word} among")
    table = read(path, drop_missing=True)
    assert table.left_out["num_missing"] == 1
    assert table.frame.select("user", "item").rows() == [
        (int(user), int(item)) for user, item in ids if word not in (user, item)
    ]


def test_kinds_of_sources(write, tmp_path):
    data = {"user": ["1", "NULL", "2.0", "3"], "item": ["5", "6", "7", " NaN "], "time": [1, 2, 3, 4]}
    pl.DataFrame(data).write_parquet(tmp_path / "a.parquet")
    one = write('{"user": 1, "item": 5, "time": 1}\n{"user": "NULL", "item": 6, "time": 2}\n', "a.jsonl")
    other = write('{"user": 2, "item": 7, "time": 3}\n{"user": 3, "item": "NaN", "time": 4}\n', "b.jsonl")
    categories = pl.DataFrame(data).with_columns(pl.col("user", "item").cast(pl.Categorical))
    for source in (pl.DataFrame(data), pd.DataFrame(data), categories, tmp_path / "a.parquet", [one, other]):
        with pytest.raises(DataError, match=r"column .user. holds .NULL. in (row|line) 2"):
            read(source)
        assert rows(source, drop_missing=True) == [(1, 5, 1), (2, 7, 3)]


@pytest.mark.parametrize("ids", [("x", "NULL", "1"), ("007", "None", "8"), ("NULL", "nan", "None")])
def test_a_word_among_text_is_an_id(write, ids):
    path = write("user,item,time\n" + "".join(f"{raw},1,2\n" for raw in ids))
    for drop_missing in (False, True):
        assert read(path, drop_missing=drop_missing).frame["user"].cast(pl.String).to_list() == list(ids)


@pytest.mark.parametrize(
    "times", [["7", "8"], ["7.5", "8.5"], ["2020-01-01", "2020-01-02"], ["2020. 1. 1.", "2020. 1. 2."]]
)
@pytest.mark.parametrize("word", ["NULL", " n/a ", "\\N", "NaN"])
def test_a_word_in_a_column_without_ids(write, times, word):
    values = [times[0], word, times[1]]
    data = {"user": ["a", "NULL", "b"], "item": [1, 2, 3], "time": values, "stars": ["5", "5", "4"]}
    lines = "".join(map('{{"user": "{}", "item": {}, "time": "{}", "stars": {}}}\n'.format, *data.values()))
    path = write(pl.DataFrame(data).write_csv(quote_style="never"))
    for source in (pl.DataFrame(data), pd.DataFrame(data), path, write(lines.replace("\\", "\\\\"), "a.jsonl")):
        with pytest.raises(DataError, match=r"column 'time' holds .*drop_missing=True leaves such rows out$"):
            read(source)
        table = read(source, drop_missing=True)
        assert table.left_out == {"num_missing": 1}
        assert table.frame["time"].is_sorted()
        assert table.frame["user"].cast(pl.String).to_list() == ["a", "b"]
    weighed = write("user,item,time,n\na,1,1,2\nb,2,2,NA\n")
    with pytest.raises(DataError, match=r"column 'n' holds 'NA' in line 3; .*drop_missing=True"):
        read(weighed, weight="n")
    assert read(weighed, weight="n", drop_missing=True).frame["user"].cast(pl.String).to_list() == ["a"]


def test_a_word_among_the_ids_of_further_rows(write):
    """Test sets, updates and histories of a model whose ids are integers."""
    train = checkerboard()
    test = write("user,item\n1,2\nNULL,3\n2,NA\n", "test.csv")
    with pytest.raises(DataError, match=r"test.csv: column 'user' holds 'NULL' in line 3; .*drop_missing=True leaves"):
        fastncf.fit(train, test=test, model="popularity", progress=False)
    rec = fastncf.fit(train, test=test, model="popularity", drop_missing=True, progress=False)
    assert rec.data["num_missing"] == 2
    rec = fastncf.fit(train, model="popularity", progress=False)
    words = write("user,item\n1,2\nNULL,3\n3,NA\n", "words.csv")
    nulls = pl.DataFrame({"user": [1, None, 3], "item": [2, 3, None]})
    for more in (words, nulls, nulls.to_pandas()):
        with pytest.raises(
            DataError, match=r"column '(user|item)' .* in (row|line) \d; .*; unknown='skip' leaves such rows"
        ):
            rec.update(more)
        with pytest.raises(DataError, match=r"unknown='skip' or unknown='popular' leaves such rows out$"):
            rec.recommend(history=more)
        before, users = rec.data["num_rows"], len(rec.users)
        assert set(rec.recommend(history=more, k=2, unknown="skip")["user"]) == {1}
        assert rec.update(more, unknown="skip").data["num_rows"] == before + 3
        assert len(rec.users) == users
        assert num_lost(rec.data) == 0
    nothing = rec.recommend(history=nulls[2:], k=2, unknown="skip")
    assert nothing.columns == ["user", "item", "score", "rank"]
    assert nothing.is_empty()
