"""Files with a line of items for each user, beside the same rows as a table."""

import gzip

import numpy as np
import polars as pl
import pytest

import fastncf
from fastncf.data.interactions import read_interactions
from fastncf.errors import ConfigError, DataError
from tests.plain_protocols import last_items, popularity_metrics, unseen


def random_lists(seed: int, users: int = 30, items: int = 40, least: int = 2) -> dict[int, list[int]]:
    generator = np.random.default_rng(seed)
    return {
        int(user): generator.permutation(items)[: generator.integers(least, 12)].tolist()
        for user in generator.permutation(500)[:users]
    }


def text_of(lists: dict[int, list[int]], separator: str = " ", end: str = "\n") -> str:
    return "".join(separator.join(map(str, (user, *items))) + end for user, items in lists.items())


@pytest.mark.parametrize(("separator", "end"), [(" ", "\n"), ("\t", "\n"), (" ", " \n"), (" ", "\r\n"), (" ", "\n\n")])
@pytest.mark.parametrize("is_packed", [False, True])
def test_lines_are_read_as_sequences(tmp_path, separator, end, is_packed):
    lists = random_lists(0)
    path = tmp_path / ("lists.txt.gz" if is_packed else "lists.txt")
    mark = b"\xef\xbb\xbf" if end == "\r\n" else b""
    content = mark + text_of(lists, separator, end).encode()
    path.write_bytes(gzip.compress(content) if is_packed else content)
    found = read_interactions(path)
    assert found.users.decode(found.user).to_list() == [user for user, items in lists.items() for _ in items]
    assert found.items.decode(found.item).to_list() == [item for items in lists.values() for item in items]
    assert found.time.tolist() == [place for items in lists.values() for place in range(1, len(items) + 1)]
    assert found.source_info["format"] == "a line for each user: the user, then the items"


def test_the_last_of_a_line_is_held_out(tmp_path):
    lists = random_lists(1, users=60)
    (tmp_path / "seq.txt").write_text(text_of(lists))
    rec = fastncf.fit(tmp_path / "seq.txt", model="popularity", full_ranking=True)
    train, test = last_items([(u, i, at) for u, items in lists.items() for at, i in enumerate(items)], 1)
    counts = {item: sum(item in items for items in train.values()) for item in range(40)}
    catalogue = {item for items in lists.values() for item in items}
    expected = popularity_metrics(counts, test, unseen(catalogue, train, test), 10)
    assert rec.metrics["full/hr@10"] == pytest.approx(expected["hr"])
    assert rec.metrics["full/ndcg@10"] == pytest.approx(expected["ndcg"])


@pytest.mark.parametrize("is_even", [False, True])
def test_a_given_test_set_with_any_number_of_items(tmp_path, is_even):
    """As LightGCN publishes its data; also where each user has as many test items, so that the lines form a table."""
    lists = random_lists(2, users=60, least=4)
    test = {user: items[: 2 if is_even else 1 + user % 3] for user, items in lists.items()}
    train = {user: items[len(test[user]) :] for user, items in lists.items()}
    for name, part in (("train", train), ("test", test)):
        (tmp_path / f"{name}.txt").write_text(text_of(part))
    rec = fastncf.fit(
        tmp_path / "train.txt",
        test=tmp_path / "test.txt",
        model="popularity",
        full_ranking=True,
        k=5,
        metrics=["recall", "ndcg"],
    )
    counts = {item: sum(item in items for items in train.values()) for item in range(40)}
    catalogue = {item for items in lists.values() for item in items}
    expected = popularity_metrics(counts, test, unseen(catalogue, train, test), 5)
    assert rec.metrics["full/recall@5"] == pytest.approx(expected["recall"])
    assert rec.metrics["full/ndcg@5"] == pytest.approx(expected["ndcg"])
    assert f"given test set, 60 users with {sum(map(len, test.values()))} items" in rec.protocol
    rows = pl.DataFrame([(u, i) for u, items in train.items() for i in items], schema=["user", "item"], orient="row")
    tests = pl.DataFrame([(u, i) for u, items in test.items() for i in items], schema=["user", "item"], orient="row")
    again = fastncf.fit(rows, test=tests, model="popularity", full_ranking=True, k=5, metrics=["recall", "ndcg"])
    assert again.metrics == rec.metrics


@pytest.mark.parametrize("number", [2, 3])
def test_lists_of_one_length_are_not_taken_for_rows(tmp_path, number):
    """Three integers in each line could be a user, an item and a rating."""
    lists = random_lists(5, least=6)
    (tmp_path / "train.txt").write_text(text_of({user: items[:number] for user, items in lists.items()}))
    (tmp_path / "test.txt").write_text(text_of({user: items[number : 4 + user % 2] for user, items in lists.items()}))
    given = {"test": tmp_path / "test.txt", "model": "popularity"}
    with pytest.raises(DataError, match=r"train.txt: has no header and one row for each of its 30 users"):
        fastncf.fit(tmp_path / "train.txt", **given)
    pairs = "".join(f"{user} {items[4]}\n" for user, items in lists.items())
    (tmp_path / "test.txt").write_text(pairs)
    rec = fastncf.fit(tmp_path / "train.txt", **given, user="column_1", item="column_2")
    assert len(rec.split.indices) == 30


def test_ascending_lines_are_sets(tmp_path):
    lists = {user: sorted(items) for user, items in random_lists(3).items()}
    (tmp_path / "set.txt").write_text(text_of(lists))
    with pytest.raises(DataError, match=r"set.txt: the items of each line ascend, .* choose split='random'"):
        fastncf.fit(tmp_path / "set.txt", model="popularity")
    rec = fastncf.fit(tmp_path / "set.txt", model="popularity", split="random")
    assert "time" not in rec.found["columns"]


@pytest.mark.parametrize("before", ["80%", 5, "2000-01-01"])
def test_places_in_lines_are_no_points_in_time(tmp_path, before):
    lists = random_lists(6)
    (tmp_path / "seq.txt").write_text(text_of(lists))
    with pytest.raises(DataError, match=rf"seq.txt: holds the order of each user's items .*before='{before}' needs"):
        fastncf.fit(tmp_path / "seq.txt", model="popularity", before=before)
    (tmp_path / "pairs.txt").write_text("".join(f"{u} {i}\n" for u, items in lists.items() for i in items))
    with pytest.raises(ConfigError, match=rf"before='{before}': needs times, and rows_in_order=True"):
        fastncf.fit(tmp_path / "pairs.txt", model="popularity", before=before, rows_in_order=True)


def test_a_user_without_items_has_no_rows(tmp_path):
    (tmp_path / "lists.txt").write_text("1 5 4 3\n2\n3 4 9\n")
    assert read_interactions(tmp_path / "lists.txt").users.ids.to_list() == [1, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 3 2 4\n2 3\n" + "9 8 7\n" * 2, "second line of user 9|separated by"),
        ("1 3 2 4\n2 3 5 x 9\n", "fields|separated|columns"),
        ("1 3 2 4\n2 03 5 9 9\n", "fields|separated|columns"),
    ],
)
def test_other_texts_are_not_taken_for_lists(tmp_path, text, message):
    (tmp_path / "odd.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_interactions(tmp_path / "odd.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("77 1 2 y", "line 4001 holds '77 1 2 y'; expected integers, as in the first lines"),
        ("77 1 02", "line 4001 holds '77 1 02'"),
        ("77 99999999999999999999 1", "line 4001 holds"),
        ("3 1 2", "line 4001 is a second line of user 3; expected one line for each user"),
    ],
)
def test_what_the_first_lines_tell_is_checked_on_all(tmp_path, line, message):
    items = " ".join(map(str, range(100, 180)))
    text = "".join(f"{100 + user} {user % 7}{' 20' * (user % 2)} {items}\n" for user in range(3_999))
    (tmp_path / "long.txt").write_text("3 4 5 6\n" + text + line + "\n")
    with pytest.raises(DataError, match=message):
        read_interactions(tmp_path / "long.txt")


def test_rows_of_two_columns_are_sequences_where_the_caller_says_so(tmp_path):
    """As SASRec publishes its data."""
    lists = random_lists(4, users=60)
    (tmp_path / "pairs.txt").write_text("".join(f"{u} {i}\n" for u, items in lists.items() for i in items))
    (tmp_path / "lines.txt").write_text(text_of(lists))
    with pytest.raises(DataError, match=r"rows_in_order=True where each user's rows are in the order of time"):
        fastncf.fit(tmp_path / "pairs.txt", model="popularity")
    pairs = fastncf.fit(tmp_path / "pairs.txt", model="popularity", rows_in_order=True)
    assert pairs.metrics == fastncf.fit(tmp_path / "lines.txt", model="popularity").metrics
    with pytest.raises(ConfigError, match="has times in column 'place in the line'"):
        fastncf.fit(tmp_path / "lines.txt", model="popularity", rows_in_order=True)
