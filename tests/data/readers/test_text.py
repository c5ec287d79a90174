"""Text files: what is read, and where the rest is refused."""

import csv
import gzip
import io
import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastncf.data.readers import raw_text
from fastncf.data.readers import text as text_reader
from fastncf.errors import DataError, FastNCFError
from tests.data.readers.conftest import HEADER, LIVELY, canonical, check_refusal, interactions, read, rows


@pytest.mark.parametrize("large", [2**31, -(2**31) - 1, 2**62])
def test_ids_that_outgrow_32_bits_far_down_the_file(write, large):
    ids = [*range(1500), large]
    table = read(write("user,item,time\n" + "".join(f"{raw},1,2\n" for raw in ids))).frame
    assert table["user"].dtype == pl.Int64
    assert table["user"].to_list() == ids


@pytest.mark.parametrize("line", [",1,2", "1,,2"])
def test_a_column_without_any_value(write, line):
    path = write("user,item,time\n" + f"{line}\n" * 3)
    with pytest.raises(DataError, match=r"is empty in line 2; expected integers or text"):
        read(path)


def test_quoted_fields(write):
    content = HEADER + '"a,b","x ""q""",3,4\n"c\n\nd",y,7,8\n'
    assert rows(write(content)) == [("a,b", 'x "q"', 4), ("c\n\nd", "y", 8)]


@pytest.mark.parametrize("title", ['12" vinyl', '"Heroes', '"Weird Al" Yankovic', 'a"', "'"])
@pytest.mark.parametrize("place", [2, 3])
def test_stray_quotes_lose_no_row(write, title, place):
    lines = [[str(user), str(item), str(user)] for user in range(3) for item in range(3)]
    for at in (1, 4):
        lines[at].insert(place, title)
    for fields in lines:
        fields[place:place] = [] if len(fields) == 4 else ["title"]
    names = ["user", "item", "time"]
    names.insert(place, "title")
    content = "".join("\t".join(fields) + "\n" for fields in [names, *lines])
    assert rows(write(content)) == [(user, item, user) for user in range(3) for item in range(3)]


def test_quotes_first_seen_after_the_head(write):
    content = "user,title,item,time\n" + "1,x,2,3\n" * 20_000
    assert rows(write(content + '4,"a,5,6",7,8\n'))[-1] == (4, 7, 8)
    content = "user,item,time\n" + "a,x,3\n" * 20_000
    assert rows(write(content + '"b",y,4\n'))[-1] == ("b", "y", 4)


BAD = {
    "missing fields": (
        HEADER + "1,2,3,4\n5,6\n7,8,9,1\n",
        "line 3 has 2 fields; expected 4 (user, item,",
    ),
    "missing fields, text": (HEADER + "a,b,3,4\nc\na,b,9,1\n", "line 3 has 1 field;"),
    "missing fields first": (HEADER + "5,6\n" + "1,2,3,4\n" * 3, "line 2 has 2 fields"),
    "too many fields": (HEADER + "1,2,3,4\n5,6,7,8,9\n7,8,9,1\n", "line 3 has 5 fields"),
    "spaces": (HEADER + "1,2,3,4\n   \n5,6,7,8\n", "line 3 has 1 field;"),
    "no id": (HEADER + "1,2,3,4\n,6,7,8\n", "column 'user' is empty in line 3; expected integers or text"),
    "no text id": (HEADER + "a,2,3,4\n\n,6,7,8\n", "column 'user' is empty in line 4; expected integers or text"),
    "no time": (HEADER + "1,2,3,4\n5,6,7, \n", "column 'time' is empty in line 3; expected a number such as"),
    "no quoted id": (HEADER + 'a,2,3,4\n"",6,7,8\n', "column 'user' is empty in line 3; expected integers or text"),
    "nothing": (HEADER + "1,2,3,4\n,,,\n", "column 'user' is empty in line 3"),
    "after a long record": (HEADER + '"a\nb",y,7,8\ne,f,8,8\nc,d,7,x\n', "column 'time' holds 'x' in line 5"),
    "open quote": (HEADER + 'a,b,3,4\n"c,d,5,6\ne,f,7,8\n', "line 3 holds a quote that its field does not close"),
    "text after a quote": (HEADER + '"a"b,b,3,4\n', "line 2 holds a quote inside a field"),
    "quote in a quoted file": (HEADER + '"a",b,3,4\nc"d,e,5,6\n', "line 3 holds a quote inside a field"),
    "carriage return": (HEADER + "a,b\rc,3,4\n", "line 2 holds a carriage return inside a field"),
    "carriage return in the header": ("user\r,item\na,b\n", "line 1 holds a carriage return inside a field"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(write, content, message):
    check_refusal(write(content), message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("\0,2,3,4", "line 150002 holds a NUL character"),
        ('"1,2,3,4', "line 150002 holds a quote that its field does not close"),
        ("1,,3,4", "column 'item' is empty in line 150002"),
        ("1,2,3,oops", "column 'time' holds 'oops' in line 150002"),
        ("1,2", "line 150002 has 2 fields"),
        ("1,2,3,4,5", "line 150002 has 5 fields"),
        ("1,2,é,4", "line 150002 is not UTF-8 text"),
        ("é,2,3,4", "line 150002 is not UTF-8 text"),
    ],
)
def test_bad_lines_deep_in_a_file(write, line, message):
    content = HEADER + "1,2,3,4\n" * 150_000 + line + "\n1,2,3,4\n"
    with pytest.raises(DataError) as error:
        read(write(content.encode("latin-1")))
    assert message in str(error.value)


def _text(data, columns, separator, *, quote, newline, header):
    def field(value):
        value = str(value)
        if quote or (separator != "::" and any(mark in value for mark in f'"\n{separator}')):
            return '"' + value.replace('"', '""') + '"'
        return value

    lines = [[row[column] for column in columns] for row in data]
    return "".join(separator.join(map(field, line)) + newline for line in ([columns] if header else []) + lines)


@LIVELY
@given(
    interactions(),
    st.permutations(["user", "item", "rating", "time"]),
    st.sampled_from([",", "\t", ";", "|", "::"]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_round_trip_of_text(tmp_path, drawn, columns, separator, quote, newline, header, bom, packed, bare_end):
    data, odd = drawn
    if separator == "::":
        quote = False
        if odd:
            separator = ","
    # without a header, a mark in every row can pass for the separator, and small numbers are no times
    header = header or odd or any(row["time"] < 8 * 10**8 or row["time"] > 2 * 10**9 for row in data)
    if not header:
        columns = ["user", "item", "rating", "time"]
    text = _text(data, columns, separator, quote=quote, newline=newline, header=header)
    content = (("\ufeff" if bom else "") + (text.removesuffix(newline) if bare_end else text)).encode()
    path = tmp_path / "ratings"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert rows(path) == [(canonical(row["user"]), canonical(row["item"]), row["time"]) for row in data]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(
            "1;2;3,5;900000088\n4;5;4,5;900000089\n", [(1, 2, 900000088), (4, 5, 900000089)], id="decimal commas"
        ),
        pytest.param(
            "a\x1fb::i::5::900000003\nc::j::4::900000006\n",
            [("a\x1fb", "i", 900000003), ("c", "j", 900000006)],
            id="control character",
        ),
        pytest.param(
            "a\x1cb,\x1c7,5,900000003\nc,8,4,900000006\n",
            [("a\x1cb", "\x1c7", 900000003), ("c", "8", 900000006)],
            id="odd blanks",
        ),
        pytest.param("1,2,881250949,5\n3,4,881250950,1\n", [(1, 2, 881250949), (3, 4, 881250950)], id="time third"),
        pytest.param("user,item,time,note\n1,2,3,\n4,5,6,x\n", [(1, 2, 3), (4, 5, 6)], id="last field empty"),
        pytest.param(
            '"two\nlines",i,5,900000003\n"b",j,4,900000006\n',
            [("two\nlines", "i", 900000003), ("b", "j", 900000006)],
            id="line in a field",
        ),
        pytest.param(
            'user,item,note,time\n"a",1,"two\nlines",3\n\n"b",2,x,6\n', [("a", 1, 3), ("b", 2, 6)], id="line in a note"
        ),
    ],
)
def test_odd_texts(write, content, expected):
    assert rows(write(content)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user,item,time,note\n1,2,3,x\n4,5,6\n", "line 3 has 3 fields; expected 4 (user, item, time, note)"),
        ("time,user,item,note\n1,2,3,x\n2,3,x\n9,4,5,x\n", "line 3 has 3 fields"),
        ("1 2 3 900000088\n4 5  6  900000089\n7 8 9 900000099\n", "line 2 has 6 fields; expected 4"),
        ("userId,user_id,item,time\n1,2,3,4\n4,5,6,7\n", "which column is the user, 'userId' or 'user_id'? name one"),
        ("user,item,time\n1,2,3\n4,5,6\n7,8,9\x1c\n", "column 'time' holds '9\\x1c' in line 4"),
        ("user,item,time\n1,2,3\n4,5,6\n7,8,9 x\n", "column 'time' holds '9 x' in line 4"),
        (
            '"é";b c";"5";"900000001"\n"a";"z";"5";"900000002"\n"07";\na";"5";"900000003"\n"a";"b";"5";"900000004"\n',
            "line 3 has 2 fields",
        ),
        ('user,item,note,time\n"a",1,"x, y",1\nb,2,12" mix,2\nc,3,7" mix,3\nd,4,x,4\n', "line 3 holds a quote inside"),
    ],
)
def test_odd_texts_that_are_refused(write, content, message):
    path = write(content)
    with pytest.raises(DataError) as error:
        read(path)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("place", [1, 2000])
def test_a_header_among_the_rows(write, place):
    lines = ["user,item", *(f"u{n},i{n}" for n in range(3000))]
    lines.insert(place, "user,item")
    with pytest.raises(DataError, match=f"line {place + 1} repeats the header; expected one header, in the first line"):
        read(write("\n".join(lines)), needs_time=False)


@pytest.mark.parametrize("line", ["\ufeff1,2", "\ufeffuser,item", '\ufeff"user","item"', "\ufeffann,tea"])
@pytest.mark.parametrize("place", [1, 2000])
def test_a_byte_order_mark_among_the_rows(write, line, place):
    lines = ["user,item", *(f"{n},{n}" for n in range(3000))]
    lines.insert(place, line)
    with pytest.raises(DataError, match=f"line {place + 1} (begins with a byte order mark|holds a quote inside)"):
        read(write("\n".join(lines)), needs_time=False)


ODD_IDS = [
    "0123",
    "+7",
    "-0",
    "x",
    "1.5",
    "1e3",
    "٣",
    "\x1c7",
    "9" * 30,
    "18446744073709551615",
    "0x1F",
    "1_000",
    "NaN1",
]


@pytest.mark.parametrize("odd", ODD_IDS)
@pytest.mark.parametrize("place", [0, 1, 1005, 90_000, 100_000])
def test_ids_do_not_depend_on_the_order_of_the_rows(write, odd, place):
    """An id that is no integer makes all of them text, wherever it stands, and is no other id."""
    items = [str(123 + n % 50) for n in range(100_000)]
    items.insert(place, odd)
    table = read(write("user,item\n" + "".join(f"1,{item}\n" for item in items)), needs_time=False).frame
    assert table["item"].cast(pl.String).to_list() == items
    assert table["item"].n_unique() == 51


@pytest.mark.parametrize("odd", [" 123", "123 ", "123.0", '"123"', "\t123"])
def test_other_spellings_of_an_id_anywhere(write, odd):
    for place in (0, 20_000):
        items = ["123", "0124"] * 10_000
        items.insert(place, odd)
        table = read(write("user,item\n" + "".join(f"1,{item}\n" for item in items)), needs_time=False).frame
        assert sorted(table["item"].unique().cast(pl.String)) == ["0124", "123"]
        assert table["item"][place] == "123"


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("header", ["user,item,rating,time\n", "user,item,rating,time,\n", ""])
def test_a_separator_behind_each_row(write, header, quoted):
    lines = [
        f'"{n}",{n % 7},3,90000000{n % 10},\n' if quoted else f"{n},{n % 7},3,90000000{n % 10},\n" for n in range(3000)
    ]
    table = read(write(header + "".join(lines))).frame
    assert table.rows() == [(n, n % 7, 900000000 + n % 10) for n in range(3000)]
    for odd, found in (("5,6,3,900000000\n", 4), ("5,6,3,900000000,,\n", 6), ("5,6,3,900000000,7\n", 5)):
        if header.endswith(",\n") and found == 5:
            continue  # the header has a fifth column, without a name
        changed = [*lines]
        changed[2500] = odd
        with pytest.raises(DataError, match=f"line {2501 + bool(header)} has {found} fields; expected"):
            read(write(header + "".join(changed)))


@pytest.mark.parametrize("num_fields", [3, 5, 6, 7, 8, 1004])
@pytest.mark.parametrize("filler", ["", "x"])
@pytest.mark.parametrize("separator", [",", "\t", "::"])
def test_a_row_with_another_number_of_fields(write, num_fields, filler, separator):
    lines = [separator.join([str(n), str(n % 7), "3", "4"]) for n in range(3000)]
    lines[2000] = separator.join(["1", "2", "3", "4", *[filler] * 1000][:num_fields])
    path = write(separator.join(["user", "item", "rating", "time"]) + "\n" + "\n".join(lines))
    check_refusal(path, f"line 2002 has {num_fields:,} fields; expected 4 (user, item, rating, time)")


@pytest.mark.parametrize("length", [70_000, 200_000, 3_000_000])
def test_long_rows_and_fields(write, length):
    long = "x" * length
    expected = [(1, 2, 4), (5, 6, 8)]
    assert rows(write(f"user,item,{long},time\n1,2,3,4\n5,6,7,8\n")) == expected
    assert rows(write(f"user,item,note,time\n1,2,{long},4\n5,6,7,8\n")) == expected
    assert rows(write(f"user,item,note,time\n1,2,3,4\n5,6,{long},8")) == expected
    lines = f'"{long}\n{long}\n"'
    assert rows(write(f"user,item,note,time\n1,2,{lines},4\n5,6,7,8\n")) == expected
    assert rows(write(f"user,item,note,time\n1,2,3,4\n5,6,{lines},8\n")) == expected
    assert rows(write(f"user,item,{lines},time\n1,2,3,4\n5,6,7,8\n")) == expected
    assert rows(write(f"user,item\n{lines},b\nc,d\n"), needs_time=False) == [(f"{long}\n{long}", "b"), ("c", "d")]


@pytest.mark.parametrize("place", [0, 1, 60_000])
def test_quotes_that_leave_a_doubt(write, place):
    """A quote at the end of one title and one at the begin of an earlier title: a long field, or two stray quotes."""
    lines = [f"{n % 97},{n % 89},{n},title" for n in range(90_000)]
    lines[place] = '1,2,3,"Heroes'
    lines[place + 2] = '4,5,6,Heroes"'
    path = write("user,item,time,title\n" + "\n".join(lines))
    check_refusal(path, f"line {place + 3} is part of an earlier field if quotes count, and a row if they do not")


def test_a_short_row_behind_the_head(write):
    lines = [f"{n % 97},{n % 89},{n},x" for n in range(5000)]
    lines[4000] = "3,4,5"
    with pytest.raises(DataError, match="line 4002 has 3 fields; expected 4"):
        read(write("user,item,time,note\n" + "\n".join(lines)))
    lines[4000] = "3,4,5,\n"  # an empty note and a blank line
    assert read(write("user,item,time,note\n" + "\n".join(lines))).frame.height == 5000


SOUP = ("\n", "\r\n", " ", "0", "7", "a", "-", ".", "é", "\x1c", "\u2028", "\x0b", ",", "\t", ";", ":", "::", "\x1f")


@LIVELY
@given(
    st.data(), st.sampled_from([",", "\t", ";", "|", " ", "::"]), st.sampled_from([("1", "2", "-4"), ("a", "b", "07")])
)
def test_a_mutated_text_is_read_as_it_stands_or_refused(tmp_path, data, separator, ids):
    """An accepted text has every line that is not blank, and in it the fields that a plain split finds."""
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(ids)), min_size=2, max_size=6))
    text = "".join(separator.join([*pair, "5", str(10**9 + at)]) + "\n" for at, pair in enumerate(pairs))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text = text[:at] + data.draw(st.sampled_from([separator, *SOUP])) + text[at + data.draw(st.integers(0, 1)) :]
    path = tmp_path / "x"
    path.write_bytes(text.encode())
    try:
        table = read(path)
    except FastNCFError:
        return
    layout = table.source_info["format"]
    name = layout.partition("separated by '")[2].partition("'")[0]
    split = {"tab": "\t", "space": " "}.get(name, name)
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    fields = [line.split(split) for line in lines if line]
    width = len(fields[0])
    for row in fields:
        assert len(row) >= width
        assert not any(row[width:])  # polars lets an empty field at the end pass
    body = fields[1:] if "with header" in layout else fields
    for at, role in enumerate(("user", "item")):
        kept = table.frame[role].cast(pl.String).to_list()
        assert kept == [canonical(row[at]) for row in body]


def _random_records(draw, num_records):
    """Rows with quoted fields of several lines, of very different lengths."""
    rows = []
    for _ in range(num_records):
        note = draw.choice(["", "x", 'a "b"', "a,b", "line\n" * draw.randrange(1, 40), '"\n",\n""' * draw.randrange(9)])
        rows.append([str(draw.randrange(97)), draw.choice(["7", "i,j", 'k"', "é\n"]), note, str(draw.randrange(10**9))])
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_records_are_those_of_the_csv_module_in_ranges_of_any_bounds(write, monkeypatch, seed):
    draw = random.Random(seed)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=draw.choice(["\n", "\r\n"]), quoting=draw.choice([0, 1]))
    writer.writerow(["user", "item", "note", "time"])
    writer.writerows(_random_records(draw, 3000))
    content = buffer.getvalue()
    path = write(content.encode())
    monkeypatch.setattr(raw_text, "_RANGE_BYTES", draw.choice([1, 1 << 10, 1 << 14, 1 << 22]))
    monkeypatch.setattr(raw_text, "_WINDOW_BYTES", draw.choice([1, 100]))
    table = read(path)
    reader = csv.reader(io.StringIO(content, newline=""))
    expected, lines = [], []
    next(reader)
    while True:
        line = reader.line_num + 1
        row = next(reader, None)
        if row is None:
            break
        expected.append((int(row[0]), canonical(row[1]), int(row[3])))
        lines.append(line)
    assert table.frame.rows() == expected
    for row in draw.sample(range(3000), 20):
        assert table.locate(row) == f"line {lines[row]}"


def test_quotes_around_lines_that_are_no_rows_without_them(write):
    assert rows(write('user;item;time\n1;2;"3\n"\n4;5;6\n')) == [(1, 2, 3), (4, 5, 6)]
    assert rows(write('user;item;x;time\n1;2;"a\n;;c";3\n4;5;d;6\n')) == [(1, 2, 3), (4, 5, 6)]
    assert rows(write('user;item;time;x\n1;2;3;"a\n;b;c;d"\n4;5;6;e\n')) == [(1, 2, 3), (4, 5, 6)]


@pytest.mark.parametrize("line", ["sep=;\n", "sep=;\r\n", '"sep=;"\n', "\ufeffsep=;\n", "sep=\t\n"])
def test_the_line_by_which_excel_tells_the_separator(write, line):
    content = f"{line}user;item;time\n1;2;3\nx;5;6\n4;5\n"
    with pytest.raises(DataError, match="line 5 has 2 fields"):
        read(write(content))
    assert rows(write(content.removesuffix("4;5\n"))) == [("1", 2, 3), ("x", 5, 6)]


def test_a_file_that_changes_while_it_is_read(write, monkeypatch):
    path = write(HEADER + "1,2,3,4\n" * 50_000)
    scan = text_reader.scan

    def cut_and_scan(*arguments):
        path.write_bytes(path.read_bytes()[:200_000])
        return scan(*arguments)

    monkeypatch.setattr(text_reader, "scan", cut_and_scan)
    check_refusal(path, "changed while it was read; expected a file that stays as it is")
