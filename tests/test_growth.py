"""Fits leave nothing behind; ``make nightly`` runs two hundred."""

from pathlib import Path

from tests import growth


def test_fits_in_one_process_leave_nothing_behind(tmp_path: Path) -> None:
    rounds = len(growth.FITS)
    growth.run(2 * rounds, tmp_path)
    before = growth.used()
    growth.run(3 * rounds, tmp_path)
    after = growth.used()
    assert after.num_bytes - before.num_bytes < 5e6
    assert after[1:] == before[1:]
