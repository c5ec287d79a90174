"""A test set with candidates in files of its own."""

import pandas as pd
import polars as pl
import pytest

import fastncf
from fastncf.data.given_files import read_with_test
from fastncf.data.interactions import read_interactions
from fastncf.data.split import given_test
from fastncf.errors import DataError, DataNotFoundError


@pytest.fixture
def paper(tmp_path):
    """Three files as He et al. have them; item 90 and 91 occur in the test and among the candidates alone."""
    (tmp_path / "train.rating").write_text(
        "0\t10\t5\t1\n0\t20\t5\t2\n1\t10\t4\t3\n1\t30\t4\t4\n2\t20\t3\t5\n2\t40\t3\t6\n"
    )
    (tmp_path / "test.rating").write_text("0\t30\t5\t7\n2\t90\t4\t8\n1\t40\t4\t9\n")
    (tmp_path / "test.negative").write_text("(1,40)\t20\t91\n(0,30)\t40\t90\n(2,90)\t10\t30\t91\n")
    return {
        name: tmp_path / f"{file}"
        for name, file in (("train", "train.rating"), ("test", "test.rating"), ("candidates", "test.negative"))
    }


TRAIN = "1\t10\t5\t100\n1\t20\t5\t101\n2\t10\t5\t100\n2\t30\t5\t102\n"
TEST = "2\t20\t5\t200\n1\t30\t5\t201\n"
NEGATIVE = "(1,30)\t40\t50\n(2,20)\t40\t60\n"


@pytest.fixture
def read_paper(tmp_path):
    """Writes train, test and negative files and reads them."""

    def _read(train=TRAIN, test=TEST, negative=NEGATIVE):
        paths = [tmp_path / name for name in ("train.rating", "test.rating", "test.negative")]
        for path, content in zip(paths, (train, test, negative), strict=True):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_with_test(*paths)

    return _read


@pytest.mark.parametrize(
    "negative",
    [
        NEGATIVE,
        NEGATIVE.replace("\n", "\r\n"),
        "\ufeff" + NEGATIVE.rstrip(),
        "\n(2,20)\t40\t60\t\n\n('1', '30')\t40\t50\n",
    ],
)
def test_given_test_set(read_paper, negative):
    data, test = read_paper(negative=negative)
    assert data.items.ids.to_list() == [10, 20, 30, 40, 50, 60]
    assert data.users.decode(test.user).to_list() == [2, 1]
    assert data.items.decode(test.item).to_list() == [20, 30]
    assert [data.items.decode(row).to_list() for row in test.candidates] == [[40, 60], [40, 50]]


def test_lists_of_unequal_length_and_text_ids(read_paper):
    data, test = read_paper("a\tx\t1\t2\nb\ty\t1\t2\n", "a\ty\t1\t3\n", "(a,y)\tz\tx1\n")
    assert data.items.decode(test.candidates[0]).to_list() == ["z", "x1"]
    data, test = read_paper(negative="(1,30)\t40\n(2,20)\t40\t60\n")
    assert (test.candidates[1] == [data.items.encode(pl.Series([40]))[0], -1]).all()


@pytest.mark.parametrize(
    ("changed", "name", "message"),
    [
        ({"test": "1\t30\t5\t1\nx\t20\t5\t1\n1\t2\t3\t4\n"}, "test.rating", "user 'x' (line 2) does not occur in"),
        ({"test": "a\t30\t5\t1\n"}, "test.rating", "user 'a' (line 1) does not occur in"),
        ({"test": TEST + "9\t20\t5\t1\n"}, "test.rating", "user 9 (line 3) does not occur in"),
        ({"test": "user\titem\ttime\n1\t20\t1\n9\t20\t5\n"}, "test.rating", "user 9 (line 3) does not occur in"),
        ({"test": TEST + "1\t20\t5\t1\n"}, "test.rating", "user 1 has a second test item in line 3"),
        ({"negative": ""}, "test.negative", "is empty"),
        ({"negative": NEGATIVE.encode() + b"(1,\xe9)\t4\n"}, "test.negative", "line 3 is not UTF-8 text"),
        ({"negative": "1\t30\t40\n"}, "test.negative", "line 1 starts with '1'"),
        ({"negative": "(1,30)\n"}, "test.negative", "line 1 starts with '(1,30)'"),
        ({"negative": NEGATIVE + "(1,30)\t4\t\t5\n"}, "test.negative", "line 3 holds the negative ''"),
        ({"negative": "(1,30)\t40\n(x,20)\t40\n"}, "test.negative", "line 2 is a list for user 'x' and item 20"),
        ({"negative": "(1,30)\t40\n( ,20)\t40\n"}, "test.negative", "line 2 holds the user ''"),
        ({"negative": "(1 30)\t40\n"}, "test.negative", "line 1 starts with '(1 30)'"),
        ({"negative": "(" + " " * 50_000 + "x\t40\n"}, "test.negative", "line 1 starts with '(   "),
        ({"negative": NEGATIVE.splitlines()[0]}, "test.negative", "has no list for test user 2 and item 20"),
        ({"negative": NEGATIVE + "(1,20)\t40\n"}, "test.negative", "line 3 is a list for user 1 and item 20"),
        ({"negative": NEGATIVE + "(1,30)\t60\n"}, "test.negative", "line 3 is a list for user 1 and item 30"),
        ({"negative": NEGATIVE + "(7,30)\t60\n"}, "test.negative", "line 3 is a list for user 7 and item 30"),
    ],
)
def test_bad_test_sets(read_paper, changed, name, message):
    with pytest.raises(DataError) as error:
        read_paper(**changed)
    assert f"{name}: " in str(error.value)
    assert message in str(error.value)


def test_bad_candidate_paths(tmp_path):
    train = pl.DataFrame({"user": [1, 2], "item": [1, 2]})
    with pytest.raises(DataNotFoundError, match="no such file"):
        read_with_test(train, train, tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a folder"):
        read_with_test(train, train, tmp_path)
    with pytest.raises(DataError, match="expected the path of a file"):
        read_with_test(train, train, [1])


def test_ids_of_all_files_are_compared_by_their_canonical_text():
    train = pl.DataFrame({"user": ["1", "1", "07"], "item": ["5", "x", "5"], "time": [1, 2, 3]})
    test = pl.DataFrame({"user": [1], "item": [9], "time": [4]})
    data, given = read_with_test(train, test)
    assert data.users.decode(given.user).to_list() == ["1"]
    assert data.items.decode(given.item).to_list() == ["9"]
    wide = train.with_columns(user=pl.Series([2**63, 2**63, 1], dtype=pl.UInt64), item=pl.Series([1, 2, 3]))
    data, given = read_with_test(wide, test)
    assert data.users.decode(given.user).to_list() == [1]
    for user in (-1, "ann", "01"):
        with pytest.raises(DataError, match=rf"^test: user '?{user}'? \(row 1\) does not occur in train;"):
            read_with_test(wide, test.with_columns(user=pl.lit(user)))


@pytest.mark.parametrize("spelling", ["{}", "{}.0", " {} "])
@pytest.mark.parametrize("kind", ["csv", "parquet", "polars", "pandas", "categories", "mixed"])
def test_spellings_of_the_test_rows_and_candidates_are_those_of_the_training(tmp_path, spelling, kind):
    train = pl.DataFrame({"user": [1, 1, 2, 2], "item": [12, 13, 12, 14], "time": [1, 2, 3, 4]})
    test = pl.DataFrame({"user": [spelling.format(1), spelling.format(2)], "item": ["A7", spelling.format(13)]})
    (tmp_path / "lists").write_text(f"({spelling.format(1)}, A7)\t{spelling.format(14)}\n(2.0,'13')\tnew\n")
    source = test
    if kind == "csv":
        source = tmp_path / "test.csv"
        test.write_csv(source, separator=";")
    elif kind == "parquet":
        source = tmp_path / "test.parquet"
        test.write_parquet(source)
    elif kind == "pandas":
        source = pd.DataFrame(test.to_dict())
    elif kind == "categories":
        source = test.cast(pl.Categorical)
    elif kind == "mixed":
        source = pd.DataFrame(
            {"user": pd.Series([1.0, "2"], dtype=object), "item": pd.Series(["A7", 13], dtype=object)}
        )
    data, given = read_with_test(train, source, tmp_path / "lists")
    assert data.users.decode(given.user).to_list() == [1, 2]
    assert data.items.decode(given.item).to_list() == ["A7", "13"]
    assert data.items.ids.to_list() == ["12", "13", "14", "A7", "new"]
    assert data.items.decode(data.item).to_list() == ["12", "13", "12", "14"]
    assert data.items.decode(given.candidates[:, 0]).to_list() == ["14", "new"]


def test_genuine_files(data_dir):
    data = read_interactions(data_dir / "ml-1m" / "ratings.dat")
    assert (len(data.user), len(data.users), len(data.items)) == (1_000_209, 6040, 3706)
    folder = data_dir / "ml-1m-ncf"
    data, test = read_with_test(
        *(folder / f"ml-1m.{name}" for name in ("train.rating", "test.rating", "test.negative"))
    )
    assert (len(data.user), len(test.user), test.candidates.shape) == (994_169, 6040, (6040, 99))
    assert (test.candidates >= 0).all()


def test_the_vocabulary_holds_the_items_of_all_three_files(paper):
    interactions, test = read_with_test(**paper)
    assert interactions.items.ids.to_list() == [10, 20, 30, 40, 90, 91]
    assert interactions.users.decode(test.user).to_list() == [0, 2, 1]
    assert interactions.items.decode(test.item).to_list() == [30, 90, 40]
    lists = [[-1 if item < 0 else interactions.items.ids[int(item)] for item in row] for row in test.candidates]
    assert lists == [[40, 90, -1], [10, 30, 91], [20, 91, -1]]


def test_given_files_are_evaluated_as_given(paper):
    rec = fastncf.fit(**paper, model="popularity", k=2)
    assert rec.metrics["hr@2"] == pytest.approx(2 / 3)  # user 0 ties with item 40, user 2 loses to all three
    assert (
        "given test set, 3 users (1 of their items unknown to the training data), 1 + 3 given candidates, 43 % of them "
        "unknown to the training data (2 users have fewer)" in rec.protocol
    )
    again = rec.evaluate(num_candidates=2)
    assert "1 + 2 candidates drawn uniformly without" in again.protocol
    drawn = fastncf.fit(paper["train"], test=paper["test"], model="popularity", num_candidates=2)
    assert "1 + 2 candidates drawn uniformly without" in drawn.protocol


def test_what_no_training_row_has_is_counted(paper, tmp_path):
    rec = fastncf.fit(**paper, model="popularity")
    counts = {"num_items_unknown": 2, "num_test_items_unknown": 1, "num_candidates_unknown": 3}
    assert rec.data | counts | {"num_candidates_seen": 0} == rec.data
    rec.save(tmp_path / "model")
    again = fastncf.load(tmp_path / "model")
    assert again.data == rec.data
    assert again.evaluate() == rec.evaluate()


def test_candidates_that_their_user_has_seen_are_left_out_and_counted(paper, tmp_path):
    rec = fastncf.fit(**paper, model="popularity", k=2)
    paper["candidates"].write_text("(1,40)\t20\t40\t91\t10\n(0,30)\t10\t40\t20\t90\n(2,90)\t10\t20\t30\t91\n")
    more = fastncf.fit(**paper, model="popularity", k=2)
    assert more.metrics == rec.metrics
    assert more.data["num_candidates_seen"] == 5
    assert "1 + 4 given candidates, without 5 that their user has seen" in more.protocol
    more.save(tmp_path / "model")
    assert fastncf.load(tmp_path / "model").evaluate() == more.evaluate()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("test", "0\t30\t5\t7\n7\t90\t4\t8\n", r"user 7 \(line 2\) does not occur in .*train\.rating"),
        ("test", "0\t10\t5\t7\n", r"1 pair is also in .*train\.rating, the first is user 0 with item 10"),
        ("test", "ann\tx\t5\t7\nbob\ty\t4\t8\n", r"user 'ann' \(line 1\) does not occur in"),
        ("test", "0\t77\t5\t7\n1\t78\t4\t8\n", "none of its 2 test items has a training interaction; .* such as 10"),
        ("candidates", "0,30\t40\n", r"line 1 starts with '0,30'; expected \(user,item\)"),
        ("candidates", "(0,30)\n", "line 1 starts with"),
        ("candidates", "\n", "holds no candidate list"),
        (
            "candidates",
            "(1,40)\t90\n(0,30)\t71\t72\n(2,90)\tx\n",
            "none of its candidates has a training interaction; expected ids as .* has them, such as '10'",
        ),
        (
            "candidates",
            "(1,40)\t20\n(0,30)\t10\t30\t20\n(2,90)\t10\n",
            "user 0 has seen every item of the user's list; expected at least one",
        ),
        ("candidates", "(0,30)\t40\n(2,90)\t10\n", "has no list for test user 1 and item 40"),
        (
            "candidates",
            "(0,30)\t40\n(2,90)\t10\n(1,20)\t10\n",
            "line 3 is a list for user 1 and item 20, which is no test row",
        ),
    ],
)
def test_mistakes_in_the_given_files(paper, file, content, message):
    paper[file].write_text(content)
    files = paper if file == "candidates" else {"train": paper["train"], "test": paper["test"]}
    with pytest.raises(DataError, match=message) as error:
        fastncf.fit(**files, model="popularity")
    assert paper[file].name in str(error.value)


def test_missing_or_odd_candidates(paper, tmp_path):
    with pytest.raises(DataNotFoundError, match="no such file"):
        fastncf.fit(**(paper | {"candidates": tmp_path / "nowhere"}))
    with pytest.raises(DataError, match="expected the path of a file"):
        fastncf.fit(**(paper | {"candidates": [1]}))
    paper["candidates"].write_bytes(b"(0,30)\t\xff\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        fastncf.fit(**paper)


def test_text_ids_in_candidates(tmp_path):
    train = pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "z z"], "time": [1, 2, 3]})
    test = pl.DataFrame({"user": ["a"], "item": ["z z"], "time": [4]})
    path = tmp_path / "lists"
    path.write_text("('a', 'z z')\tw\tx\n")
    _, given = read_with_test(train, test, path)
    assert given.candidates.tolist() == [[0, 1]]


def test_leaks_and_unknown_users_are_told_by_the_names_of_the_arguments():
    train = pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 3]})
    for test, message in [
        ({"user": [2], "item": [3]}, "^test: 1 pair is also in train, the first is user 2 with item 3"),
        ({"user": [1, 2], "item": [2, 3]}, "^test: 2 pairs are also in train, the first is user 1 with item 2"),
        ({"user": [1, 9], "item": [3, 3]}, r"^test: user 9 \(row 2\) does not occur in train"),
        ({"who": [1], "item": [3]}, "^test: which column is the user"),
    ]:
        with pytest.raises(DataError, match=message):
            given_test(*read_with_test(train, pl.DataFrame(test)))
    with pytest.raises(DataError, match=r"^train: which column is the user"):
        read_with_test(train.rename({"user": "who"}), train)
