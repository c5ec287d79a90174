"""Files of histories are read as the training data were."""

import polars as pl
import pytest

import fastncf
from fastncf.errors import DataError


def test_settings_of_the_reading_hold_for_other_files(tmp_path):
    rows = [
        (f"ü{user}", f"i{item}", f"0{1 + (user + item) % 9}/0{1 + user * item % 9}/2021")
        for user in range(20)
        for item in range(30)
        if (7 * user + 3 * item) % 5
    ]
    frame = pl.DataFrame(rows, schema=["user", "item", "date"], orient="row")
    (tmp_path / "train.csv").write_bytes(frame.write_csv().encode("latin-1"))
    rec = fastncf.fit(tmp_path / "train.csv", dayfirst=True, encoding="latin-1", epochs=1, history="bag")
    history = frame[:3].with_columns(user=pl.lit("é"))
    (tmp_path / "new.csv").write_bytes(history.write_csv().encode("latin-1"))
    (tmp_path / "bare.tsv").write_bytes("é\ti1\n".encode("latin-1"))
    assert set(rec.recommend(history=tmp_path / "new.csv", k=2)["user"]) == {"é"}
    assert set(rec.recommend(history=tmp_path / "bare.tsv", k=2)["user"]) == {"é"}
    assert set(rec.recommend(history=history.select("user", "item"), k=2)["user"]) == {"é"}
    dates = history.with_columns(date=pl.lit("2021-13-13"))
    with pytest.raises(DataError, match=r"dayfirst=True; these are settings of the fit, which history keeps, so that"):
        rec.recommend(history=dates)
    with pytest.raises(DataError, match=r"which column is the item\? its columns are user, a; [^=]*$"):
        rec.update(pl.DataFrame({"user": ["ü1"], "a": ["b"]}))
