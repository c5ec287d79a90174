"""Layouts by the first rows of a text."""

import numpy as np
import polars as pl
import pytest

from fastncf.data.ids import to_canonical_dtype
from fastncf.data.readers import records
from fastncf.data.readers.raw_text import RawText
from tests.data.readers.conftest import HEADER, PLAIN, check_refusal, read


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        (["1", "30", "7"], pl.Int64),
        (["-1", "0", "5"], pl.Int64),
        (["9223372036854775807", "-9223372036854775808", "1"], pl.Int64),
        (["18446744073709551615", "1", "2"], pl.UInt64),
        (["99999999999999999999999", "1", "2"], pl.String),
        (["007", "7", "8"], pl.String),
        (["+7", "7", "8"], pl.String),
        (["-0", "0", "8"], pl.String),
        (["1.0", "2.0", "x"], pl.String),
        (["1.0", "2.0", "3.0"], pl.Int64),
        (["1e3", "2e3", "3"], pl.String),
        (["a", "B0001", "é"], pl.String),
        (["NULL", "nan", "None"], pl.String),
    ],
)
def test_ids_of_text_files(write, ids, dtype):
    table = read(write("user,item,time\n" + "".join(f"{raw},1,2\n" for raw in ids))).frame
    assert to_canonical_dtype(table["user"]).dtype == dtype
    assert table["user"].cast(pl.String).to_list() == [raw.removesuffix(".0") for raw in ids]


BAD = {
    "blank": ("\n\n", "holds only blank lines"),
    "blanks": ("\n \n\t \n", "holds only blank lines"),
    "BOM only": ("\ufeff", "holds only blank lines"),
    "header only": (HEADER, "holds a header (user, item, rating, time) and no row"),
    "one column": ("user\n1\n2\n", "found no columns in line 1 ('user')"),
    "binary": (b"\x03\x02\x01\0\0\0", "binary file of an unknown kind"),
    **{
        f"{name} {mark}": (
            mark + PLAIN.encode(name),
            f"{name[:6].upper()} text; expected UTF-8, or encoding='{told}'",
        )
        for name, told, mark in (
            ("utf-16", "utf-16", b""),
            ("utf-32", "utf-32", b""),
            ("utf-16-be", "utf-16", b"\xfe\xff"),
            ("utf-32-be", "utf-32", b"\0\0\xfe\xff"),
            ("utf-16-le", "utf-16-le", b""),
            ("utf-16-be", "utf-16-be", b""),
            ("utf-32-le", "utf-32-le", b""),
            ("utf-32-be", "utf-32-be", b""),
        )
    },
    "latin-1": ((HEADER + "é,2,3,4\n").encode("latin-1"), "line 2 is not UTF-8 text"),
    "CR": (PLAIN.replace("\n", "\r"), r"lines that end in \r alone"),
    "ragged": (HEADER + "1,2,3,4,5\n5,6,7,8,9\n", "line 1 has 4 fields at ',', line 2 has 5"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(write, content, message):
    check_refusal(write(content), message)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1,2,3,4," * 40_000, "line 1 has more than 100,000 fields at ','"),
        ("\n\n1" + " " * 300_000, "line 3 has more than 100,000 fields at ' '"),
        ("user,item,time\n1," + "2" * 70_000, "line 2 does not end within 65,536 bytes"),
        ('"' + "a" * 70_000, "line 1 does not end within 65,536 bytes"),
        (('user,item,time\n"' + "a\n" * 40_000), "line 2"),
    ],
    ids=["commas", "blanks", "digits", "one quote", "lines in one quote"],
)
def test_lines_that_may_be_a_whole_file_are_refused_before_they_are_taken_apart(write, monkeypatch, content, words):
    decoded, decode = [], RawText.decode

    def count(text: RawText, data: np.ndarray, start: int) -> str:
        decoded.append(len(data))
        return decode(text, data, start)

    monkeypatch.setattr(RawText, "decode", count)
    if "within" in words:
        monkeypatch.setattr(records, "_MAX_HEAD_BYTES", 1 << 16)
    check_refusal(write(content), words)
    assert len(decoded) < 250_000


def test_a_record_of_many_ranges_is_searched_once(write, monkeypatch):
    searched, find = [], RawText._find_record

    def count(*given: object) -> int:
        searched.append(given[1])
        return find(*given)

    monkeypatch.setattr(RawText, "_find_record", count)
    note = "y" * 400_000
    table = read(write(f"user,item,time,note\n1,2,3,{note}\n4,5,6,x\n7,8,9,{note}\n"))
    assert table.frame.rows() == [(1, 2, 3), (4, 5, 6), (7, 8, 9)]
    assert len(searched) == 2
