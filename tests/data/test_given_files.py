import numpy as np
import polars as pl
import pytest

import fastncf
from fastncf.data.ids import Vocabulary
from fastncf.data.interactions import draw_users, read_interactions, read_with_test
from fastncf.errors import ConfigError, DataError, DataNotFoundError


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


def test_the_vocabulary_holds_the_items_of_all_three_files(paper):
    interactions, test = read_with_test(**paper)
    assert interactions.items.ids.to_list() == [10, 20, 30, 40, 90, 91]
    assert interactions.users.decode(test.user).to_list() == [0, 2, 1]
    assert interactions.items.decode(test.item).to_list() == [30, 90, 40]
    lists = [[-1 if code < 0 else interactions.items.ids[int(code)] for code in row] for row in test.candidates]
    assert lists == [[40, 90, -1], [10, 30, 91], [20, 91, -1]]


def test_given_files_are_evaluated_as_given(paper):
    rec = fastncf.fit(**paper, model="popularity", k=2)
    assert rec.metrics["hr@2"] == pytest.approx(2 / 3)  # user 0 ties with item 40, user 2 loses to all three
    assert "given test set, 3 users, 1 + 3 given candidates (2 users have fewer)" in rec.protocol
    again = rec.evaluate(num_candidates=2)
    assert "1 + 2 distinct" in again.protocol
    drawn = fastncf.fit(paper["train"], test=paper["test"], model="popularity", num_candidates=2)
    assert "given test set, 3 users, 1 + 2 distinct" in drawn.protocol


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("test", "0\t30\t5\t7\n7\t90\t4\t8\n", r"user 7 in line 2 has no interaction in .*train\.rating"),
        ("test", "0\t30\t5\t7\n0\t90\t4\t8\n", r"user 0 has a second test item in line 2"),
        ("test", "0\t10\t5\t7\n", r"1 of its pairs are also in .*train\.rating, the first is user 0 with item 10"),
        ("test", "ann\tx\t5\t7\nbob\ty\t4\t8\n", "its user ids are text, those of .* are integers"),
        ("candidates", "0,30\t40\n", r"line 1 starts with '0,30'; accepted: \(user,item\)"),
        ("candidates", "(0,30)\n", "line 1 starts with"),
        ("candidates", "\n", "holds no candidate list"),
        ("candidates", "(0,30)\t40\tx\n", "line 1 holds the negative 'x'"),
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


def test_vocabulary_encodes_and_decodes():
    for ids in (["b", "a", "c", "a"], [10, -3, 2**40, 10]):
        column = pl.Series(ids)
        vocabulary = Vocabulary.of([column], "user")
        codes = vocabulary.encode(column)
        assert codes.dtype == np.int32
        assert sorted(set(codes.tolist())) == [0, 1, 2]
        assert vocabulary.decode(codes).to_list() == ids
        assert vocabulary.ids.to_list() == sorted(set(ids))


def test_draw_users_makes_ids_contiguous_again():
    frame = pl.DataFrame({"user": np.arange(60) // 3, "item": np.arange(60) % 31, "time": np.arange(60)})
    kept = draw_users(read_interactions(frame), 0.4, 7)
    assert len(kept.users) == 8
    assert sorted(set(kept.user.tolist())) == list(range(8))
    assert sorted(set(kept.item.tolist())) == list(range(len(kept.items)))
    rows = set(zip(kept.users.decode(kept.user), kept.items.decode(kept.item), kept.time.tolist(), strict=True))
    assert rows <= set(frame.iter_rows())
    assert len(rows) == 24
    with pytest.raises(ConfigError, match="keeps 1 of 20 users"):
        draw_users(read_interactions(frame), 0.05, 7)
