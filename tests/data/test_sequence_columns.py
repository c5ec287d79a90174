"""Text with a sequence of items in a field: what is read of it, and what is said of a row that fits no sequence."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fastncf.data.given_files import read_with_test
from fastncf.data.interactions import read_interactions
from fastncf.errors import DataError

_LISTS = "user_id:token\titem_id_list:token_seq"
_TARGETS = f"{_LISTS}\titem_id:token"
_TIMED = f"{_LISTS}\ttimestamp_list:float_seq"


def written(path: Path, header: str, *rows: str) -> Path:
    """Write a header and rows, and return the path."""
    path.write_text("\n".join((header, *rows, "")), encoding="utf-8")
    return path


def triples(path: Path, **settings: object) -> list[tuple]:
    """Return user, item and time of each interaction of a file, ordered by user and time."""
    found = read_interactions(path, **settings)
    frame = pl.DataFrame(
        {"user": found.users.ids.gather(found.user), "item": found.items.ids.gather(found.item), "time": found.time}
    )
    return frame.sort("user", "time").rows()


def test_random_histories_come_back_in_any_of_the_forms(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    histories = {user: random.permutation(40)[: random.integers(2, 30)].tolist() for user in range(12)}
    expected = [(user, item, place) for user, row in histories.items() for place, item in enumerate(row, start=1)]
    join = lambda items: " ".join(map(str, items))  # noqa: E731
    lists = [f"{user}\t{join(row)}" for user, row in histories.items()]
    growing, windows, last = [], [], []
    for user, row in histories.items():
        growing += [f"{user}\t{join(row[:end])}\t{row[end]}" for end in range(1, len(row))]
        windows += [f"{user}\t{join(row[max(0, end - 5) : end])}\t{row[end]}" for end in range(len(row))]
        last.append(f"{user}\t{join(row[:-1])}\t{row[-1]}")
    timed = [f"{user}\t{join(row)}\t{join(range(1, len(row) + 1))}" for user, row in histories.items()]
    shuffled = [growing[number] for number in random.permutation(len(growing))]
    for header, rows in (
        (_LISTS, lists),
        ("\ufeff" + _LISTS, [row + "\r" for row in lists]),
        ("user_id:token\titem_id:token_seq", lists),
        *((_TARGETS, rows) for rows in (growing, shuffled, windows, last)),
        (_TIMED, timed),
    ):
        assert triples(written(tmp_path / "d.inter", header, *rows)) == expected


def test_of_a_test_set_the_items_behind_the_histories_are_read(tmp_path: Path) -> None:
    train = written(tmp_path / "d.train.inter", _TARGETS, "1\t5\t3", "1\t5 3\t9", "2\t3\t5")
    for header, rows, expected in (
        (_TARGETS, ["1\t5 3 9\t7", "2\t3 5\t9"], [(1, 7), (2, 9)]),
        (_LISTS, ["1\t7 8", "2\t9"], [(1, 7), (1, 8), (2, 9)]),
    ):
        found, test = read_with_test(train, written(tmp_path / "d.test.inter", header, *rows))
        assert [
            (found.users.ids[int(u)], found.items.ids[int(i)]) for u, i in zip(test.user, test.item, strict=True)
        ] == expected
        assert len(found.user) == 5


def test_the_times_of_a_sequence_are_those_of_a_point_in_time(tmp_path: Path) -> None:
    path = written(tmp_path / "d.inter", _TIMED, "1\t5 3 9\t30 20 10", "2\t3 5\t40 50", "1\t7\t60")
    assert triples(path)[0] == (1, 9, 10)
    assert read_interactions(path, before="35").before == 40


@pytest.mark.parametrize(
    ("header", "rows", "settings", "said"),
    [
        (_LISTS, ["1\t5 3", "2\t3\t4"], {}, "line 3 has 3 fields; expected 2, as in the header"),
        (_TIMED, ["1\t5 3\t1", "2\t3\t4"], {}, "line 2 has 2 items and 1 time; expected a time for each item"),
        (_LISTS, ["1\t5 3", "2\t4", "1\t8"], {}, "line 4 is another row of user '1' after line 2, and the one"),
        (_TARGETS, ["1\t5 3\t4", "1\t8 3\t2"], {}, "line 3 is another row of user '1' after line 2, and the one"),
        (_LISTS, ["1\t5 3", "2\t4 1"], {"before": "50%"}, "holds the order of each user's items and no times"),
        (_LISTS, ["1\t5 3", "2\t4 1"], {"min_rating": 2}, "without a value for each of them that min_rating= needs"),
        (
            _LISTS + "\titem_list:token_seq",
            ["1\t5\t3"],
            {},
            "which column holds the sequences of items, 'item_id_list",
        ),
        (_LISTS, ["\t5 3", "2\t4"], {}, "column 'user_id:token' is empty in line 2"),
    ],
)
def test_a_row_that_fits_no_sequence_is_refused(tmp_path: Path, header: str, rows, settings, said: str) -> None:
    with pytest.raises(DataError, match=r"d\.inter") as raised:
        read_interactions(written(tmp_path / "d.inter", header, *rows), **settings)
    assert said in str(raised.value)


def test_titles_beside_single_items_are_no_sequences_of_items(tmp_path: Path) -> None:
    header = "user_id:token\titem_id:token\tmovie_title:token_seq\ttimestamp:float"
    path = written(tmp_path / "d.inter", header, "1\t5\tToy Story\t3", "2\t6\tHeat\t4", "1\t6\tHeat\t9")
    assert triples(path) == [(1, 5, 3), (1, 6, 9), (2, 6, 4)]
