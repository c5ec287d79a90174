"""JSON lines: what is read, and where the rest is refused."""

import gzip
import json
import re

import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastncf.data.readers import json_lines
from fastncf.errors import DataError
from tests.data.readers.conftest import INTEGERS, LIVELY, archive, canonical, check_refusal, read, rows

LINES = '{"user": "A", "item": 3, "time": 5}\n{"user": "B", "item": 4, "time": 6}\n'
ROWS = [("A", 3, 5), ("B", 4, 6)]


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES.rstrip(),
        LINES.replace("\n", "\r\n"),
        "\ufeff" + LINES,
        "\n \n" + LINES.replace("\n", "\n\n"),
        LINES.replace('"time"', '"rating": [1, {"x": null}], "time"'),
        gzip.compress(LINES.encode(), mtime=0),
        archive(**{"ratings.jsonl": LINES}),
        LINES.replace('{"user": "A", "item": 3, "time": 5}', '{"time": 5, "note": "}\\n{", "item": 3.0, "user": " A"}'),
    ],
)
@pytest.mark.parametrize("name", ["ratings.jsonl", "ratings.csv", "x"])
def test_json_lines(write, content, name):
    table = read(write(content, name))
    assert table.frame.rows() == ROWS
    assert table.source_info["format"] == "JSON lines"


def test_names_of_columns_elsewhere_in_a_line(write):
    lines = [f'{{"user": "user", "item": {n}, "time": 5, "more": {{"item": 7, "user": "time"}}}}' for n in range(3)]
    assert rows(write("\n".join(lines))) == [("user", n, 5) for n in range(3)]


def test_strings_that_look_like_other_values(write):
    users = ["true", "[1]", "1.5", "{}", "x"]
    lines = "".join(json.dumps({"user": user, "item": 1, "time": 2}) + "\n" for user in users)
    assert [user for user, _, _ in rows(write(lines))] == users


@LIVELY
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "user": st.one_of(
                    st.integers(0, 20), st.integers(-(2**70), 2**70), st.text(min_size=1).map("x{}".format)
                ),
                "item": st.one_of(INTEGERS, st.sampled_from(["007", "7", "7.0"])),
                "time": st.integers(0, 2**40),
            }
        ),
        min_size=2,
        max_size=8,
    ),
    st.booleans(),
)
def test_round_trip_of_json_lines(tmp_path, data, ascii_only):
    path = tmp_path / "ratings.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in data)
    path.write_text(text, encoding="utf-8", newline="")
    found = [tuple(map(str, row)) for row in rows(path)]
    assert found == [tuple(str(canonical(row[name])) for name in ("user", "item", "time")) for row in data]


BAD = {
    "cut": (LINES[:-5], "line 2 is not JSON (Expecting ':' delimiter"),
    "two in a line": (LINES + LINES.replace("}\n", "}"), "line 3 is not JSON (Extra data"),
    "list of lines": (LINES.replace("}\n", "},\n"), "line 1 is not JSON (Extra data"),
    "number": (LINES + "3\n", "line 3 is not an object: '3'"),
    "null": (LINES + '{"user": null, "item": 1, "time": 3}', "column 'user' is empty in line 3"),
    "missing": ("\n" + LINES + '\n{"item": 1, "time": 3}', "column 'user' is empty in line 5"),
    "true": (LINES.replace('"A"', "1").replace('"B"', "true"), "column 'user' holds True in line 2"),
    "object among numbers": (LINES.replace("4,", '{"a": 1},'), "column 'item' holds {'a': 1} in line 2"),
    "list among numbers": ("\n" + LINES.replace("4,", "[4],"), "column 'item' holds [4] in line 3"),
    "half a character": (LINES.replace('"B"', r'"\ud83d"'), r"column 'user' holds '\ud83d' in line 2"),
    "half a character within": (LINES.replace('"B"', r'"b\udc00b"'), r"column 'user' holds 'b\udc00b' in line 2"),
    "half a character among numbers": (
        LINES.replace('"A"', "1").replace('"B"', r'"\ud83d"'),
        r"column 'user' holds '\ud83d' in line 2",
    ),
    "nested": (LINES.replace('"A"', "[1]").replace('"B"', "[2]"), "column 'user' holds values of type List(Int64)"),
    "column-oriented": (
        '{"user": {"0": 1}, "item": {"0": 2}, "time": {"0": 1}}',
        "frame that pandas.read_json(PATH) makes",
    ),
    "latin-1": (LINES.replace("B", "é").encode("latin-1"), "line 2 is not UTF-8 text"),
    "fraction": (LINES.replace("3,", "3.5,"), "column 'item' holds 3.5 in line 1"),
    "no item": (LINES.replace("item", "x"), "which column is the item? its columns are user, x, time"),
    "bad time": (LINES + LINES.replace("6}", '"x"}'), "column 'time' holds 'x' in line 4"),
    "NaN": (LINES + '{"user": "C", "item": NaN, "time": 5}', "line 3 is not JSON (NaN is no value of JSON)"),
    "two items": (LINES + '{"user": "C", "item": 3, "time": 5, "item": 4}', "line 3 has 2 members 'item'; expected"),
    "true among strings": ("\n" + LINES.replace('"B"', "true"), "column 'user' holds True in line 3"),
    "power of ten among strings": (LINES.replace('"B"', "1e16"), "column 'user' holds 1e+16 in line 2"),
    "inexact number among strings": (LINES.replace('"B"', "9007199254740993.0"), "holds 9007199254740992.0 in line 2"),
    "fraction among strings": (LINES.replace('"B"', "1.5"), "column 'user' holds 1.5 in line 2"),
    "object among strings": (LINES.replace('"B"', '{"a": 1}'), "column 'user' holds {'a': 1} in line 2"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_json_lines(write, content, message):
    check_refusal(write(content), message)


@pytest.mark.parametrize("bad", ["{", "3", '{"user": [1], "item": 1, "time": 1}', '{"user": "\\x"}', "x" * 100_000])
@pytest.mark.parametrize("line", [2, 3000, 70_000, 140_000])
def test_a_bad_line_anywhere_is_named(write, line, bad):
    lines = [f'{{"user": "u{n % 97}", "item": {n % 89}, "time": {n}}}' for n in range(140_000)]
    lines[line - 1] = bad
    with pytest.raises(DataError, match=rf"\bline {line}\b") as error:
        read(write("\n".join(lines)))
    assert len(str(error.value)) <= 500


@pytest.mark.parametrize(
    "times", [("1112486027.123456788", "1112486027.123456789"), ("1.5", '"1.75"'), ("1112486027", "1112486027.5")]
)
def test_times_keep_all_digits(write, times):
    lines = [f'{{"user": {n}, "item": 1, "time": {time}}}' for n, time in enumerate(times)]
    for order in (lines, lines[::-1]):
        frame = read(write("\ufeff\n" + "\n\n".join(order))).frame.sort("user")
        assert frame["time"][0] < frame["time"][1]


@pytest.mark.parametrize("others", [("1", '{"a": 2}', "[1]", '"s"'), ("1", "2", "9" * 60, "1e999")])
@pytest.mark.parametrize("order", [1, -1])
def test_other_members_of_several_types_are_left_alone(write, others, order):
    ids = [("1", "10", "1"), ("2", "1.1e1", "1.5"), ('"x"', '"12"', "2"), ("2", "10.0", "3")]
    lines = [
        f'{{"user": {user}, "item": {item}, "time": {time}, "other": {other}}}'
        for (user, item, time), other in zip(ids, others, strict=True)
    ]
    frame = read(write("\n\n".join(lines[::order]))).frame[::order]
    assert frame["user"].to_list() == ["1", "2", "x", "2"]
    assert frame["item"].to_list() == [10, 11, 12, 10]
    assert frame["time"].is_sorted()
    assert frame["time"].n_unique() == 4


def test_members_of_several_types_with_missing_values_and_ratings(write):
    path = write(
        LINES.replace("}", ', "rating": 5, "other": 1}')
        + '{"item": 3, "time": 1, "rating": 5, "other": {}}\n{"user": "C", "item": 3, "time": 1, "rating": "1"}\n'
    )
    table = read(path, drop_missing=True, min_rating=3)
    assert table.frame["user"].to_list() == ["A", "B"]
    assert table.left_out == {"num_missing": 1, "num_low_rated": 1}


def test_a_first_line_without_an_end_is_refused_before_it_is_parsed(write, monkeypatch):
    monkeypatch.setattr(json_lines, "_MAX_LINE_BYTES", len(LINES) // 2)  # with its line end
    assert rows(write(LINES)) == ROWS
    most = len(LINES) // 2 - 1
    monkeypatch.setattr(json_lines, "_MAX_LINE_BYTES", most)
    monkeypatch.setattr(json_lines.pl, "scan_ndjson", None)
    for mark in ("", "\ufeff"):
        check_refusal(write(mark + LINES), f"line 1 does not end within {most} bytes; expected JSON lines")


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "form", ["columns", "split", "records", "index", "values", "table", "lists", "member", "lines"]
)
def test_the_call_for_a_json_document_makes_a_frame(tmp_path, form, indent):
    frame = pl.DataFrame({"user": [1, 5, 1], "item": [2, 6, 6], "time": [4, 8, 9]})
    path = tmp_path / "a.json"
    if form == "lists":
        path.write_text(json.dumps(frame.to_dict(as_series=False), indent=indent), encoding="utf-8")
    elif form == "member":
        path.write_text(json.dumps({"count": 3, "rows": frame.to_dicts()}, indent=indent), encoding="utf-8")
    elif form == "lines":
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.rows()), encoding="utf-8")
    else:
        frame.to_pandas().to_json(path, orient=form, indent=indent, index=form not in ("values", "records"))
    with pytest.raises(DataError, match=r"pass the frame that .* makes$") as caught:
        read(path)
    call = re.search(r"pass the frame that (.*) makes$", str(caught.value))[1]
    with path.open(encoding="utf-8") as file:
        made = eval(call, {"pandas": pd, "polars": pl, "json": json, "PATH": path, "open": lambda _: file})
    found = pl.DataFrame({name: list(made[name]) for name in made.columns})
    assert found[:, -3:].rows() == frame.rows()


def test_one_interaction_with_other_members_is_no_document(write):
    path = write('{"user": 1, "item": 2, "time": 3, "tags": ["a"], "more": {}}\n', "a.jsonl")
    assert read(path).frame.rows() == [(1, 2, 3)]
