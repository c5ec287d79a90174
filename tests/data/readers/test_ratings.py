"""Rows that are left out by their ratings."""

import gzip
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest

import fastncf
from fastncf.data.given_files import read_with_test
from fastncf.errors import ConfigError, DataError
from tests.data.readers.conftest import parquet, read

RATINGS = {
    "integers": [5, 3, 4, 1],
    "halves": [4.5, 3.5, 4.0, 0.5],
    "narrow floats": pl.Series([4.1, 3.9, 4.05, 1.0], dtype=pl.Float32),
    "text": ["4.5", " 3", "4 ", "1e0"],
    "decimal commas": ["4,5", "3,5", "4", ",5"],
    "decimals": [Decimal("4.5"), Decimal("3.9"), Decimal(4), Decimal(1)],
    "categories": pl.Series(["5", "3", "4", "1"], dtype=pl.Categorical),
}


@pytest.mark.parametrize("ratings", RATINGS.values(), ids=RATINGS.keys())
@pytest.mark.parametrize("name", ["rating", "Stars", "Bewertung", "评分", "review_score"])
def test_rows_with_a_lower_rating_are_left_out(write, ratings, name):
    frame = pl.DataFrame({"user": [1, 2, 3, 4], "item": [5, 6, 7, 8], name: ratings, "time": [1, 2, 3, 4]})
    sources = [frame, frame.lazy(), write(parquet(frame), "x.parquet")]
    sources += [
        frame.to_pandas(),
        write(frame.write_csv(separator=";")),
        write(gzip.compress(frame.write_csv().encode())),
    ]
    for source in sources:
        table = read(source, min_rating=4)
        assert table.frame.rows() == [(1, 5, 1), (3, 7, 3)]
        assert table.left_out == {"num_low_rated": 2}
        assert read(source).frame.height == 4
        assert read(source).left_out == {}


def test_a_float_of_32_bits_is_compared_as_one():
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "rating": np.array([4.1, 4.0], dtype=np.float32)})
    assert read(frame, needs_time=False, min_rating=4.1).frame.rows() == [(1, 1)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1,2,5,1112486027\n3,4,2,1112486028\n", [(1, 2, 1112486027)]),
        ("1,2,1112486027,5\n3,4,1112486028,2\n", [(1, 2, 1112486027)]),
        ("1,2,5\n3,4,2\n", [(1, 2)]),
    ],
)
def test_without_a_header(write, content, expected):
    assert read(write(content), needs_time=False, min_rating=4).frame.rows() == expected


BAD = {
    "no rating": ("user,item,time\n1,2,3\n", "has no rating column for min_rating=4; its columns are user, item, time"),
    "two": ("user,item,rating,stars,time\n1,2,3,4,5\n", "which column is the rating, 'rating' or 'stars'?"),
    "text": (
        "user,item,rating,time\n1,2,3,4\n1,2,good,4\n",
        "column 'rating' holds 'good' in line 3; expected a rating",
    ),
    "empty": ("user,item,rating,time\n1,2,3,4\n1,2,,4\n", "column 'rating' is empty in line 3; expected a rating"),
    "infinite": ("user,item,rating,time\n1,2,inf,4\n", "column 'rating' holds 'inf' in line 2"),
    "no column": ("1,2\n3,4\n", "has no header, and no third or fourth column that may be the rating for min_rating=4"),
    "all lower": ("user,item,rating,time\n1,2,3,4\n", "holds no row that is not left out (1 are"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_ratings_that_are_refused(write, content, message):
    with pytest.raises(DataError) as error:
        read(write(content), needs_time=False, min_rating=4)
    assert message in str(error.value)


def test_other_types_are_refused():
    for ratings, message in (([True, False], "holds values of type Boolean"), ([5, "x"], "holds 'x' in row 2")):
        frame = pd.DataFrame({"user": [1, 2], "item": [1, 2], "rating": pd.Series(ratings)})
        with pytest.raises(DataError, match=f"column 'rating' {message}"):
            read(frame, needs_time=False, min_rating=4)


def test_rows_without_a_rating_are_missing(write):
    path = write("user,item,rating,time\n1,2,5,1\n3,4,,2\n5,6,1,3\n7,,5,4\n8,9,5,x\n")
    with pytest.raises(DataError, match="column 'time' holds 'x' in line 6"):
        read(path, drop_missing=True, min_rating=4)
    path = write("user,item,rating,time\n1,2,5,1\n3,4,,2\n5,6,1,3\n7,,5,4\n")
    assert read(path, drop_missing=True, min_rating=4).left_out == {"num_missing": 2, "num_low_rated": 1}


def test_the_rows_of_a_test_set_all_count(write):
    train = write("user,item,rating\na,x,5\na,y,1\nb,y,5\n", "train.csv")
    test = write("user,item,rating\na,y,1\n", "test.csv")
    interactions, held_out = read_with_test(train, test, min_rating=4)
    assert len(interactions.user) == 2
    assert interactions.left_out == {"num_low_rated": 1}
    assert len(held_out.user) == 1


def test_the_fit_counts_them(write):
    rows = [f"{user},{item},{(user * item) % 5 + 1},{user + item}" for user in range(9) for item in range(12)]
    path = write("user,item,rating,time\n" + "\n".join(rows))
    rec = fastncf.fit(path, model="popularity", min_rating=3)
    assert rec.data["num_low_rated"] == sum((user * item) % 5 < 2 for user in range(9) for item in range(12))
    with pytest.raises(ConfigError, match="min_rating='4': expected a finite number"):
        fastncf.fit(path, min_rating="4")
