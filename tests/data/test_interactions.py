"""Contiguous ids, vocabularies, and a test set that comes from files of its own."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from fastncf.data.ids import Vocabulary
from fastncf.data.interactions import draw_users, read_interactions, read_with_test
from fastncf.errors import ConfigError, DataError, DataNotFoundError

TRAIN = "1\t10\t5\t100\n1\t20\t5\t101\n2\t10\t5\t100\n2\t30\t5\t102\n"
TEST = "2\t20\t5\t200\n1\t30\t5\t201\n"
NEGATIVE = "(1,30)\t40\t50\n(2,20)\t40\t60\n"


@pytest.fixture
def paper(tmp_path):
    """Writes train, test and negative files and reads them."""

    def _read(train=TRAIN, test=TEST, negative=NEGATIVE):
        paths = [tmp_path / name for name in ("train.rating", "test.rating", "test.negative")]
        for path, content in zip(paths, (train, test, negative), strict=True):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_with_test(*paths)

    return _read


@pytest.mark.parametrize(
    "ids",
    [
        [5, 3, 5, -7],
        [0, 2**62, -(2**62), 1],
        [2**64 - 1, 0, 7, 7],
        ["b", "a", "b", "é"],
        ["007", "7", "7", "0"],
    ],
)
def test_ids_are_contiguous_and_come_back(ids):
    data = read_interactions(pl.DataFrame({"user": ids, "item": [1, 1, 2, 3]}), needs_time=False)
    assert data.user.dtype == data.item.dtype == np.int32
    assert sorted(set(data.user.tolist())) == list(range(len(set(ids))))
    assert data.users.decode(data.user).to_list() == ids
    assert data.users.ids.to_list() == sorted(set(ids))
    assert data.users.require(ids).tolist() == data.user.tolist()


@pytest.mark.parametrize("ids", [[1, 5, 9], [1, 5, 2**40], ["1", "5", "9"]])
def test_unknown_ids_have_no_code(ids):
    vocabulary = Vocabulary.of([pl.Series(ids)], "user")
    unknown = pl.Series([ids[1], ids[0], 3 if isinstance(ids[0], int) else "3"])
    assert vocabulary.encode(unknown).tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    "raw", [5, np.int64(5), 5.0, "5", [5], (5,), np.array([5]), pl.Series([5]), pd.Series([5]), pd.Series(["5"])]
)
def test_named_ids(raw):
    assert Vocabulary.of([pl.Series([1, 5])], "user").require(raw).tolist() == [1]
    if not isinstance(raw, float):
        assert Vocabulary.of([pl.Series(["1", "5"])], "user").require(raw).tolist() == [1]


@pytest.mark.parametrize("raw", [1.5, None, [5, None], float("nan"), "x", b"x", 2**70, 2**200, [[5]], object()])
def test_ids_of_another_kind(raw):
    with pytest.raises(DataError, match="user ids are integers in the training data; got"):
        Vocabulary.of([pl.Series([1, 5])], "user").require(raw)


def test_unknown_named_id():
    with pytest.raises(DataError, match="user 7 is not in the training data, whose 2 user ids run from 1 to 5"):
        Vocabulary.of([pl.Series([1, 5])], "user").require([5, 7])


@pytest.mark.parametrize(("user", "item", "noun"), [([1, 1], [1, 2], "user"), ([1, 2], ["a", "a"], "item")])
def test_one_id_only(user, item, noun):
    with pytest.raises(DataError, match=f"the frame: column '{noun}' holds only one {noun} .* accepted: at least two"):
        read_interactions(pl.DataFrame({"user": user, "item": item}), needs_time=False)


def test_share_of_the_users():
    frame = pl.DataFrame({"user": [1, 2, 3, 4] * 3, "item": list(range(12)), "time": list(range(12))})
    data = read_interactions(frame)
    drawn = draw_users(data, 0.5, 1)
    assert len(drawn.users) == 2
    kept = frame.filter(pl.col("user").is_in(drawn.users.ids.to_list()))
    assert drawn.users.decode(drawn.user).to_list() == kept["user"].to_list()
    assert drawn.items.decode(drawn.item).to_list() == kept["item"].to_list()
    assert drawn.time.tolist() == kept["time"].to_list()
    assert len(drawn.items) == 6
    with pytest.raises(ConfigError, match="keeps 1 of 4 users"):
        draw_users(data, 0.25, 1)


@pytest.mark.parametrize(
    "negative",
    [
        NEGATIVE,
        NEGATIVE.replace("\n", "\r\n"),
        "\ufeff" + NEGATIVE.rstrip(),
        "\n(2,20)\t40\t60\t\n\n('1', '30')\t40\t50\n",
    ],
)
def test_given_test_set(paper, negative):
    data, test = paper(negative=negative)
    assert data.items.ids.to_list() == [10, 20, 30, 40, 50, 60]
    assert data.users.decode(test.user).to_list() == [2, 1]
    assert data.items.decode(test.item).to_list() == [20, 30]
    assert [data.items.decode(row).to_list() for row in test.candidates] == [[40, 60], [40, 50]]


def test_lists_of_unequal_length_and_text_ids(paper):
    data, test = paper("a\tx\t1\t2\nb\ty\t1\t2\n", "a\ty\t1\t3\n", "(a,y)\tz\tx1\n")
    assert data.items.decode(test.candidates[0]).to_list() == ["z", "x1"]
    data, test = paper(negative="(1,30)\t40\n(2,20)\t40\t60\n")
    assert (test.candidates[1] == [data.items.encode(pl.Series([40]))[0], -1]).all()


@pytest.mark.parametrize(
    ("changed", "name", "message"),
    [
        ({"test": "1\t30\t5\t1\nx\t20\t5\t1\n1\t2\t3\t4\n"}, "test.rating", "holds 'x' in line 2"),
        ({"test": "a\t30\t5\t1\n"}, "test.rating", "its user ids are text, those of"),
        ({"test": TEST + "9\t20\t5\t1\n"}, "test.rating", "user 9 in line 3 has no interaction in"),
        ({"test": "user\titem\ttime\n1\t20\t1\n9\t20\t5\n"}, "test.rating", "user 9 in line 3 has no interaction in"),
        ({"test": TEST + "1\t20\t5\t1\n"}, "test.rating", "user 1 has a second test item in line 3"),
        ({"negative": ""}, "test.negative", "holds no candidate list"),
        ({"negative": NEGATIVE.encode() + b"(1,\xe9)\t4\n"}, "test.negative", "line 3 is not UTF-8 text"),
        ({"negative": "1\t30\t40\n"}, "test.negative", "line 1 starts with '1'"),
        ({"negative": "(1,30)\n"}, "test.negative", "line 1 starts with '(1,30)'"),
        ({"negative": NEGATIVE + "(1,30)\t4\t\t5\n"}, "test.negative", "line 3 holds the negative ''"),
        ({"negative": "(1,30)\t40\n(x,20)\t40\n"}, "test.negative", "line 2 holds the user 'x'"),
        ({"negative": "(1,30)\t40\tx\n(2,20)\t40\n"}, "test.negative", "line 1 holds the negative 'x'"),
        ({"negative": NEGATIVE.splitlines()[0]}, "test.negative", "has no list for test user 2 and item 20"),
        ({"negative": NEGATIVE + "(1,20)\t40\n"}, "test.negative", "line 3 is a list for user 1 and item 20"),
        ({"negative": NEGATIVE + "(1,30)\t60\n"}, "test.negative", "line 3 is a list for user 1 and item 30"),
        ({"negative": NEGATIVE + "(7,30)\t60\n"}, "test.negative", "line 3 is a list for user 7 and item 30"),
    ],
)
def test_bad_test_sets(paper, changed, name, message):
    with pytest.raises(DataError) as error:
        paper(**changed)
    assert f"{name}: " in str(error.value)
    assert message in str(error.value)


def test_bad_candidate_paths(tmp_path):
    train = pl.DataFrame({"user": [1, 2], "item": [1, 2]})
    with pytest.raises(DataNotFoundError, match="no such file"):
        read_with_test(train, train, tmp_path / "nowhere")
    with pytest.raises(DataError, match="cannot be read"):
        read_with_test(train, train, tmp_path)
    with pytest.raises(DataError, match="expected the path of a file"):
        read_with_test(train, train, [1])


def test_genuine_files(data_dir):
    data = read_interactions(data_dir / "ml-1m" / "ratings.dat")
    assert (len(data.user), len(data.users), len(data.items)) == (1_000_209, 6040, 3706)
    folder = data_dir / "ml-1m-ncf"
    data, test = read_with_test(
        *(folder / f"ml-1m.{name}" for name in ("train.rating", "test.rating", "test.negative"))
    )
    assert (len(data.user), len(test.user), test.candidates.shape) == (994_169, 6040, (6040, 99))
    assert (test.candidates >= 0).all()


def test_a_given_test_set_takes_the_kind_of_the_training_ids():
    train = pl.DataFrame({"user": ["1", "1", "07"], "item": ["5", "x", "5"], "time": [1, 2, 3]})
    test = pl.DataFrame({"user": [1], "item": [9], "time": [4]})
    data, given = read_with_test(train, test)
    assert data.users.decode(given.user).to_list() == ["1"]
    assert data.items.decode(given.item).to_list() == ["9"]
    wide = train.with_columns(user=pl.Series([2**63, 2**63, 1], dtype=pl.UInt64), item=pl.Series([1, 2, 3]))
    data, given = read_with_test(wide, test)
    assert data.users.decode(given.user).to_list() == [1]
    for user in (-1, "ann"):
        with pytest.raises(DataError, match=r"those of the frame are integers beyond 2.*; accepted: the same kind"):
            read_with_test(wide, test.with_columns(user=pl.lit(user)))


@pytest.mark.parametrize("raw", [True, [True, False], {2: 1}])
def test_what_only_looks_like_an_id_is_refused(raw):
    with pytest.raises(DataError, match="user ids are integers in the training data; got "):
        Vocabulary.of([pl.Series([0, 1, 2])], "user").require(raw)
