"""Times of text files and frames."""

import datetime as dt
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastncf.errors import ConfigError, DataError
from tests.data.readers.conftest import DAY, HEADER, LIVELY, PLAIN, check_refusal, parquet, read


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("1112484676", "1112486027"),
        ("999999999999", "1112486027000"),
        ("-5", "3"),
        ("1112484676.25", "1112484676.5"),
        ("-2.5", "-1.5"),
        ("1.1e9", "1.2e9"),
        ("1112484676", "1112484676.25"),
        ("2005-04-02 23:53:47", "2005-04-02 23:53:48"),
        ("2005-04-02T23:53:47", "2005-04-02T23:53:48"),
        ("2005-04-02T23:53:47Z", "2005-04-02T23:53:48Z"),
        ("2005-04-02T23:53:47+02:00", "2005-04-02T23:53:46+01:00"),
        ("2005-04-02 23:53:47-0100", "2005-04-02 23:53:46-0200"),
        ("2005-04-02 23:53:47 UTC", "2005-04-02 23:53:48 UTC"),
        ("2005-04-02 23:53:47", "2005-04-02 23:53:47.5"),
        ("2005-04-02T23:53:47.123Z", "2005-04-02T23:53:47.2Z"),
        ("2005-04-02 23:53", "2005-04-02 23:54"),
        ("2005-04-02", "2005-04-03"),
        ("2005/04/02", "2005/04/03"),
        ("2005/04/02 23:53:47", "2005/04/02 23:53:48"),
        ("20050402", "20050403"),
    ],
)
def test_times_keep_their_order(write, earlier, later):
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": [later, earlier]})
    for source in (write(frame.write_csv()), frame, frame.cast({"time": pl.Categorical})):
        table = read(source).frame
        assert table["time"].dtype == pl.Int64
        assert table["time"][0] > table["time"][1]


SECONDS = 1_577_836_800


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (pl.Series([DAY, DAY], dtype=pl.Datetime("ms")), 10**3),
        (pl.Series([DAY, DAY], dtype=pl.Datetime("us")), 10**6),
        (pl.Series([DAY, DAY], dtype=pl.Datetime("ns")), 10**9),
        (pl.Series([DAY.date(), DAY.date()]), 10**6),
        (pl.Series([DAY, DAY]).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"), 10**6),
        (pd.Series([DAY, DAY]).dt.as_unit("s"), 10**3),
        (pd.Series([DAY, DAY]).dt.as_unit("ms"), 10**3),
        (pd.Series([DAY, DAY]).dt.as_unit("ns"), 10**9),
        (pd.Series([DAY, DAY]).dt.as_unit("us").dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"), 10**6),
        (pd.Series([DAY.date(), DAY.date()]), 10**6),
    ],
)
def test_datetimes_of_frames(times, unit):
    frame = pl.DataFrame if isinstance(times, pl.Series) else pd.DataFrame
    assert read(frame({"user": [1, 2], "item": [1, 2], "time": times})).frame["time"].to_list() == [SECONDS * unit] * 2


BAD = {
    "no time": (HEADER + "1,2,3,4\n5,6,7,\n", "column 'time' is empty in line 3; expected a number"),
    "text time": (PLAIN + "1,2,3,x\n", "column 'time' holds 'x' in line 4; expected a number"),
    "infinite time": (HEADER + "1,2,3,4.5\n1,2,3,1e999\n", "column 'time' holds '1e999' in line 3; expected a number"),
    "no date": (HEADER + "1,2,3,2005-04-02\n1,2,3,2005-13-02\n", "column 'time' holds '2005-13-02' in line 3"),
    "two date formats": (HEADER + "1,2,3,2005-04-02\n1,2,3,2005/04/02\n", "in line 3; expected a number such as"),
    "zone names": (
        HEADER + "1,2,3,2005-04-02 23:53:47 EST\n",
        "23:53:47 EST' in line 2",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(write, content, message):
    check_refusal(write(content), message)


def test_a_date_of_another_format_far_down_the_file(write):
    lines = ["2005-04-02 23:53:47"] * 1500 + ["2005-04-02T23:53:47"]
    path = write("user,item,time\n" + "".join(f"1,2,{line}\n" for line in lines))
    with pytest.raises(DataError, match=r"'2005-04-02T23:53:47' in line 1502; .* in one format throughout"):
        read(path)


def test_fractions_first_seen_after_the_head(write):
    times = read(write(HEADER + "1,2,3,4\n" * 2000 + "1,2,3,4.5\n")).frame["time"]
    assert len(times) == 2001
    assert times[-1] > times[0] == times[-2]


def in_all_sources(write, times):
    """Return one column of text as a CSV file, a Parquet file, a polars and a pandas frame."""
    frame = pl.DataFrame({"user": range(len(times)), "item": range(len(times)), "time": times})
    return write(frame.write_csv()), write(parquet(frame), "ratings.parquet"), frame, pd.DataFrame(frame.to_dict())


ASCENDING = {
    "day first": ["20.09.1997", "03.10.1997", "01.02.1998"],
    "month first, 12 hours": [
        "09/20/1997 03:05 AM",
        "09/20/1997 03:04 PM",
        "10/01/1997 12:00 AM",
        "10/01/1997 1:00 am",
    ],
    "day first with seconds": ["28/02/2020 10:00:00", "01/03/2020 09:59:59", "01/03/2020 10:00:00.5"],
    "dashes": ["31-12-2019", "01-01-2020"],
    "months by name": ["20-Sep-1997", "03-Oct-1997", "01-Feb-1998"],
    "American": ["Sep 20, 1997", "Oct 3, 1997", "February 1, 1998"],
    "Amazon": ["09 13, 2009", "10 3, 2009", "1 1, 2010"],
    "server log": ["20/Sep/1997:03:05:00 +0200", "20/Sep/1997:03:05:00 +0100", "20/Sep/1997:03:05:00 +0000"],
    "ctime": ["Tue Apr 03 18:00:09 +0000 2012", "Tue Apr 03 18:00:10 +0000 2012", "Mon Jan 07 00:00:00 +0000 2013"],
    "mail": ["Tue, 03 Apr 2012 18:00:09 +0000", "Tue, 03 Apr 2012 18:00:10 +0000"],
    "Chinese": ["2020年1月2日", "2020年1月13日", "2020年12月1日"],
    "months": ["2019-12", "2020-01", "2020-10"],
    "compact": ["20200102T030405", "20200102T030406"],
    "nanoseconds": ["2020-01-01 00:00:00", "2020-01-01 00:00:00.000000001", "2020-01-01 00:00:00.000000002"],
    "100 ns": ["2020-01-01T00:00:00.1234567Z", "2020-01-01T00:00:00.1234568Z", "2020-01-01T00:00:00.123457Z"],
    "fractions first": ["2020-01-01 00:00:00.5", "2020-01-01 00:00:01", "2020-01-01 00:00:01.25"],
    "seconds with nanoseconds": ["1112486027", "1112486027.123456788", "1112486027.123456789", "1112486027.2"],
    "exponents with all digits": ["1.577836800e+09", "1.577836800e+09", "1.577836801e+09"],
    "18 digits": ["1112486027123456788.5", "1112486027123456789", "1112486027123456790"],
    "padded": [" 2020-01-01", "2020-01-02 ", "2020-01-03"],
    "numbers as dates": ["20050402", "20050403", "20051201"],
    "GMT": ["2005-04-02 23:53:47 GMT", "2005-04-02 23:53:48 GMT"],
    "Korean": ["2019. 12. 31.", "2020. 1. 2.", "2020. 1. 13."],
    "Korean, in words": ["2019년 12월 31일 9:05", "2020년 1월 2일 9:05", "2020년 1월 2일 10:05"],
    "Hungarian": ["2019.12.31.", "2020.01.02.", "2020.01.13."],
    "blanks behind points": ["31. 12. 2019", "2. 1. 2020", "13. 1. 2020"],
    "before 1970": ["1899-12-31", "1900-01-01", "1969-12-31"],
}


@pytest.mark.parametrize("times", ASCENDING.values(), ids=ASCENDING.keys())
def test_text_times_ascend_in_any_order_of_the_rows(write, times):
    for order in (range(len(times)), reversed(range(len(times)))):
        shuffled = [times[at] for at in order]
        for source in in_all_sources(write, shuffled):
            read_times = dict(zip(shuffled, read(source).frame["time"], strict=True))
            assert [read_times[text] for text in dict.fromkeys(times)] == sorted(set(read_times.values()))


REFUSED = {
    "two digits": (["31-12-19", "01-01-20"], "holds '31-12-19' in {1}; expected a year of four digits"),
    "two digits, year last": (["20.09.97", "21.09.97"], "expected a year of four digits"),
    "two digits in one row": (["2019-12-31", "20-01-01"], "holds '20-01-01' in {2}; expected a year of four digits"),
    "five digits": (["2019-12-31", "12019-12-31"], "holds '12019-12-31' in {2}"),
    "no row decides": (["03/04/2021", "04/03/2021"], "time_format='%d/%m/%Y' or time_format='%m/%d/%Y'"),
    "no row decides, dots": (["03.04.2021 10:00", "04.03.2021 09:00"], "time_format='%d.%m.%Y %H:%M' or"),
    "both orders": (["13/04/2021", "04/13/2021"], "expected day and month in one order throughout; {1} holds '13/"),
    "two formats": (["2021-04-13", "13.04.2021", "14.04.2021"], "holds '2021-04-13' in {1}; expected a number such as"),
    "times of day": (["09:59", "10:00"], "holds '09:59' in {1}"),
    "one time of day": (["2020-01-01", "10:00"], "a time of day needs a column of dates beside it"),
    "finer than 1 ns": (["2020-01-01 00:00:00.1234567891", "2020-01-02 00:00:00"], "no finer than a nanosecond"),
    "nanoseconds of 1500": (["2020-01-01 00:00:00.1234567", "1500-01-01 00:00:00"], "a year from 1678 to 2261"),
    "too many digits": (["1.1234567890123456789", "1.5"], "with at most 18 digits behind the point"),
    "rounded by a spreadsheet": (["1.11249E+09", "1.2E+09", "1.11249E+09"], "holds '1.11249E+09' in {1}; expected all"),
    "beyond 64 bits": (["10000000000000000000000", "1"], "below 2**63"),
    "day first as a number": (["31122019", "01012020"], "expected a date that begins with its year, or the format"),
    "month first as a number": (["12312019", "01012020"], "expected a date that begins with its year, or the format"),
    "number among dates": (["2019-12-31", "2020-01-01", "1577836800"], "holds '1577836800' in {3}"),
    "date among numbers": (["1577836800", "1577836801", "2020-01-01"], "holds '2020-01-01' in {3}"),
    "with and without zone": (["2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00"], "in {3}"),
}


@pytest.mark.parametrize(("times", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_text_times_that_are_refused(write, times, message):
    for source in in_all_sources(write, times):
        number = 1 if isinstance(source, Path) and source.suffix == ".csv" else 0
        rows = [f"{'line' if number else 'row'} {row + number}" for row in range(len(times) + 1)]
        with pytest.raises(DataError) as error:
            read(source)
        assert message.format(*rows) in str(error.value)
        assert "column 'time'" in str(error.value)


@pytest.mark.parametrize("decisive", ["13/03/2021", "03/13/2021"])
@pytest.mark.parametrize("place", [0, 700, 2500])
def test_one_row_anywhere_tells_day_from_month(write, decisive, place):
    times = ["03/04/2021", "04/03/2021"] * 1300
    times[place] = decisive
    for source in in_all_sources(write, times):
        found = read(source).frame["time"]
        later = 1000 if decisive == "13/03/2021" else 1001
        assert found[later] > found[2001 - later]


@pytest.mark.parametrize(
    ("times", "time_format", "expected"),
    [
        (["03/04/2021", "04/03/2021"], "%d/%m/%Y", [dt.datetime(2021, 4, 3), dt.datetime(2021, 3, 4)]),
        (["03/04/2021", "04/03/2021"], "%m/%d/%Y", [dt.datetime(2021, 3, 4), dt.datetime(2021, 4, 3)]),
        (["31-12-19", "01-01-20"], "%d-%m-%y", [dt.datetime(2019, 12, 31), dt.datetime(2020, 1, 1)]),
        (["31122019", "01012020"], "%d%m%Y", [dt.datetime(2019, 12, 31), dt.datetime(2020, 1, 1)]),
        (["1.2.2020 10h30"] * 2, "%d.%m.%Y %Hh%M", [dt.datetime(2020, 2, 1, 10, 30)] * 2),
        (["2020-045"] * 2, "%Y-%j", [dt.datetime(2020, 2, 14)] * 2),
        (["2020-01-01 00:00:00.5"] * 2, "%Y-%m-%d %H:%M:%S.%f", [dt.datetime(2020, 1, 1, 0, 0, 0, 500_000)] * 2),
    ],
)
def test_a_given_format(write, times, time_format, expected):
    for source in in_all_sources(write, times):
        found = read(source, time_format=time_format).frame["time"]
        assert found.cast(pl.Datetime("us")).to_list() == expected


def test_the_caller_tells_day_from_month(write):
    for source in in_all_sources(write, ["03/04/2021 10:00", "04/03/2021 09:00"]):
        for dayfirst, expected in ((True, [dt.date(2021, 4, 3), dt.date(2021, 3, 4)]), (False, [])):
            found = read(source, dayfirst=dayfirst).frame["time"].cast(pl.Datetime("us")).dt.date().to_list()
            assert found == (expected or [dt.date(2021, 3, 4), dt.date(2021, 4, 3)])


@pytest.mark.parametrize(
    ("times", "dayfirst", "message"),
    [
        (["13/04/2021", "04/03/2021"], False, "'13/04/2021' in row 1; expected a date such as 12/31/2019 beside dayf"),
        (["2021-01-02", "2021-02-01"], True, "expected a date such as 31/12/2019 beside dayfirst=True"),
        ([1, 2], True, "holds '1' in row 1; expected a date such as 31/12/2019 beside dayfirst=True"),
        ([DAY, DAY], True, "expected text beside dayfirst=True"),
    ],
)
def test_an_order_of_day_and_month_that_does_not_fit(times, dayfirst, message):
    with pytest.raises(DataError) as error:
        read(pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": times}), dayfirst=dayfirst)
    assert message in str(error.value)


@pytest.mark.parametrize("time_format", ["%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.9f"])
def test_a_given_format_keeps_nanoseconds(write, time_format):
    for source in in_all_sources(write, ["2020-01-01 00:00:00.123456788", "2020-01-01 00:00:00.123456789"]):
        found = read(source, time_format=time_format).frame["time"]
        assert found[1] - found[0] == 1


def test_a_given_format_of_integers():
    for numbers in (pl.Series([31122019, 1012020]), pl.Series([31122019.0, 1012020.0])):
        frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": numbers})
        found = read(frame, time_format="%d%m%Y").frame["time"].cast(pl.Datetime("us"))
        assert found.to_list() == [dt.datetime(2019, 12, 31), dt.datetime(2020, 1, 1)]


@pytest.mark.parametrize(
    ("times", "time_format", "kind", "message"),
    [
        (["2020-01-01", "2020-01-02"], "%d.%m.%Y", DataError, "expected a date of the format '%d.%m.%Y'"),
        (["01.01.20", "02.01.20"], "%d.%m.%Y", DataError, "holds '01.01.20' in"),
        (["10", "11"], "%H", ConfigError, "time_format='%H': cannot be used"),
        (["2020-01-01 00:00:00 EST"] * 2, "%Y-%m-%d %H:%M:%S %Z", ConfigError, "has %Z, the name of a time zone"),
        (["2020-01-01 00:00:00,5"] * 2, "%Y-%m-%d %H:%M:%S,%f", ConfigError, "has %f, which is read behind a point"),
        (["20 Sep", "21 Sep"], "%d %b", DataError, "holds '20 Sep' in"),
        ([DAY, DAY], "%Y", DataError, "expected text beside time_format='%Y'"),
        ([1.5, 2.5], "%Y", DataError, "expected text beside time_format='%Y'"),
    ],
)
def test_a_given_format_that_is_refused(times, time_format, kind, message):
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": times})
    with pytest.raises(kind) as error:
        read(frame, time_format=time_format)
    assert message in str(error.value)


def test_a_given_format_without_times(write):
    for source in (pl.DataFrame({"user": [1, 2], "item": [1, 2]}), write("1,2,3\n4,5,1\n")):
        with pytest.raises(DataError, match=r"has no time column for time_format='%Y'"):
            read(source, needs_time=False, time_format="%Y")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_hold_whole_times_up_to_their_bits(kind):
    limit = 2.0 ** (np.finfo(kind).nmant + 1)
    for times, is_refused in (([1, limit - 1], False), ([1, limit], True), ([-limit, 1], True)):
        frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": np.array(times, dtype=kind)})
        for source in (frame, pd.DataFrame(frame.to_dict(as_series=False)).astype({"time": kind})):
            if is_refused:
                with pytest.raises(DataError, match=f"since a Float{8 * kind().itemsize} holds whole numbers exactly"):
                    read(source)
            else:
                times_read = read(source).frame["time"]
                assert times_read[0] < times_read[1]


def test_fractions_of_narrow_floats_are_refused():
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": np.array([1.5, 2], dtype=np.float32)})
    with pytest.raises(DataError, match=r"holds 1\.5 in row 1; expected integers, dates or Float64"):
        read(frame)


def test_nanoseconds_that_a_missing_value_made_floats_of():
    times = pd.Series([1_577_836_800_000_000_001, None, 1_577_836_800_000_000_002]).dropna()
    frame = pd.DataFrame({"user": [1, 2], "item": [1, 2], "time": times.to_numpy()})
    with pytest.raises(DataError, match="since a Float64 holds whole numbers exactly only up to"):
        read(frame)


OBJECTS = {
    "integers and text": [1112486027, "1112486028", 1112486029],
    "integers, floats, decimals": [1, 1.5, Decimal("1.75"), np.int8(2)],
    "timestamps of nanoseconds": [pd.Timestamp("2020-01-01 00:00:00.000000001"), pd.Timestamp("2020-01-01 00:00:01")],
    "all kinds of dates": [dt.date(2019, 12, 31), DAY, np.datetime64("2020-01-01T01"), pd.Timestamp("2020-01-02")],
    "zones": [DAY.replace(tzinfo=dt.timezone(dt.timedelta(hours=2))), DAY.replace(tzinfo=dt.UTC)],
    "years 1 and 9999": [dt.date(1, 1, 1), dt.date(9999, 12, 31)],
    "decimals": [Decimal("1.12345678901234567"), Decimal("1.12345678901234568")],
}


@pytest.mark.parametrize("times", OBJECTS.values(), ids=OBJECTS.keys())
def test_times_that_are_objects(times):
    users = range(len(times))
    for column in (pd.Series(times, dtype=object), pl.Series(times, dtype=pl.Object)):
        frame = pd.DataFrame if isinstance(column, pd.Series) else pl.DataFrame
        found = read(frame({"user": users, "item": users, "time": column})).frame["time"].to_list()
        assert found == sorted(set(found))


@pytest.mark.parametrize(
    "bad", [None, pd.NaT, float("nan"), True, DAY, [1], np.float32(1e9), 2.0**60, dt.time(1)], ids=repr
)
def test_objects_that_are_no_times(bad):
    times = [1, "2", bad, 4]
    for column in (pd.Series(times, dtype=object), pl.Series(times, dtype=pl.Object)):
        frame = pd.DataFrame if isinstance(column, pd.Series) else pl.DataFrame
        with pytest.raises(DataError, match=r"column 'time' (holds|is empty).* in row 3; expected a number such as"):
            read(frame({"user": [1, 2, 3, 4], "item": [1, 2, 3, 4], "time": column}))


def test_dates_with_and_without_zones_do_not_mix():
    times = pd.Series([DAY, DAY, DAY.replace(tzinfo=dt.UTC)], dtype=object)
    with pytest.raises(DataError, match=r"in row 3; .* of one type throughout"):
        read(pd.DataFrame({"user": [1, 2, 3], "item": [1, 2, 3], "time": times}))


FORMATS = (
    *("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%SZ", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y %I:%M %p"),
    *("%d-%b-%Y", "%Y-%m-%d %H:%M", "%d/%m/%Y %H:%M:%S.%f", "%b %d %Y"),
)


@LIVELY
@given(
    st.sampled_from(FORMATS),
    st.lists(st.datetimes(dt.datetime(1000, 1, 1)), min_size=1, max_size=8),
)
def test_dates_are_read_as_python_reads_them(tmp_path, fmt, dates):
    texts = [date.strftime(fmt) for date in dates]
    expected = [dt.datetime.strptime(text, fmt) for text in texts]
    frame = pl.DataFrame({"user": range(len(texts)), "item": range(len(texts)), "time": texts})
    path = tmp_path / "ratings.tsv"
    path.write_text(frame.write_csv(separator="\t"))
    for source in (path, frame):
        try:
            found = read(source).frame["time"]
        except DataError as error:
            assert "tells day and month apart" in str(error)  # noqa: PT017
            assert all(date.day <= 12 for date in expected)
        else:
            assert found.cast(pl.Datetime("us")).to_list() == expected


KINDS = (
    *(["1", "2", "17"], ["1.5", "2"], ["1112486027", "1112486028"], ["1112486027.123456789", "1"], ["1e9", "2e9"]),
    *(["20050402", "20050403"], ["31122019", "01012020"], ["2020-01-01", "2020-01-02"], ["2020-01-01 10:00:00"]),
    *(["2020-01-01 10:00:00.5", "2020-01-01 10:00:00.1234567"], ["03/04/2021", "04/03/2021"], ["13/04/2021"]),
    *(
        ["04/13/2021"],
        ["31-12-19"],
        ["20.09.1997"],
        ["Sep 20, 1997"],
        ["10:00", "9:59"],
        ["x"],
        ["nan", "inf"],
        [" 5", "6 "],
    ),
)


@LIVELY
@given(st.data())
def test_all_sources_read_the_same_times_or_none(tmp_path, data):
    """One or two kinds of text, in any order and length, through every way in."""
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=2))
    times = data.draw(st.lists(st.sampled_from([text for kind in kinds for text in kind]), min_size=1, max_size=6))
    if data.draw(st.booleans()):  # what decides may stand behind the rows by which a format is recognised
        times = [times[0]] * 1100 + times[1:]
    frame = pl.DataFrame({"user": range(len(times)), "item": range(len(times)), "time": times})
    text, packed = tmp_path / "x.tsv", tmp_path / "x.parquet"
    text.write_text(frame.write_csv(separator="\t"))
    frame.write_parquet(packed)
    outcomes = []
    for source in (text, [text], packed, frame, frame.to_pandas(), frame.cast({"time": pl.Categorical})):
        try:
            found = read(source).frame["time"].rank("dense").to_list()
        except DataError as error:
            found = re.sub(r" in (line|row) \d+.*", "", str(error).partition("column ")[2])
        outcomes.append(found)
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes


@pytest.mark.parametrize(
    ("times", "bad"),
    [
        ([1577836800, 1577836801, 1577836800123], 2),
        ([1577836800123456, 1577836800123], 1),
        ([20200101, 20200102, 1577836800], 2),
        ([1577836800.5, 1577836800123.25, 1577836801], 1),
    ],
)
def test_times_of_two_units_in_one_column(write, times, bad):
    body = "".join(f"{row},{row + 1},{time}\n" for row, time in enumerate(times))
    check_refusal(
        write(f"user,item,time\n{body}"), f"holds {times[bad]!r} in line {bad + 2}; expected times in one unit"
    )
    frame = pl.DataFrame({"user": range(len(times)), "item": range(len(times)), "time": times}, strict=False)
    with pytest.raises(DataError, match=f"in row {bad + 1}; expected times in one unit throughout"):
        read(frame)


@pytest.mark.parametrize("times", [[5, 1577836800, 1577836800123], [1577836800, 6 * 10**9], [0, 20200101, 1577836800]])
def test_numbers_that_are_no_times_of_a_unit_are_compared(times):
    frame = pl.DataFrame({"user": range(len(times)), "item": range(len(times)), "time": times})
    assert read(frame).frame["time"].to_list() == times


@pytest.mark.parametrize(
    ("dates", "time_format"),
    [
        (["311219", "010120", "150120"], "%d%m%y"),
        (["123119", "010120", "011520"], "%m%d%y"),
        (["991231", "120101", "120115"], "%y%m%d"),
    ],
)
def test_numbers_with_years_of_two_digits(write, dates, time_format):
    for name in ("date", "order_date", "Kaufdatum"):
        path = write(f"user,item,{name}\n" + "".join(f"{row},{row + 1},{date}\n" for row, date in enumerate(dates)))
        for source in (path, pl.read_csv(path)):
            with pytest.raises(DataError, match=rf"'{name}' holds {dates[0]} in .*; expected a year of four digits"):
                read(source)
            assert read(source, time_format=time_format).frame["time"].is_sorted()
    path = write("user,item,timestamp\n" + "".join(f"{row},{row + 1},{date}\n" for row, date in enumerate(dates)))
    assert read(path).frame["time"].to_list() == list(map(int, dates))


def test_a_format_with_half_a_character(write):
    with pytest.raises(ConfigError, match=r"time_format='%Y\\ud83d': cannot be used"):
        read(write("user,item,date\n1,2,2020\n2,3,2021\n"), time_format="%Y\ud83d")
