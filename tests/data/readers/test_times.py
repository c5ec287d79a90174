"""Times of text files and frames."""

import pandas as pd
import polars as pl
import pytest

from fastncf.errors import DataError
from tests.data.readers.conftest import DAY, HEADER, PLAIN, check_refusal, read


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
    "infinite time": (HEADER + "1,2,3,4.5\n1,2,3,1e999\n", "column 'time' holds inf in line 3; expected a number"),
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
