"""Check that the tables of RESULTS.md, the committed JSON and the pictures show the same figures."""

import json
from pathlib import Path

import pytest

from benchmarks import (
    cli_startup,
    compare_commits,
    curves,
    evaluations,
    full_ranking,
    gpu,
    loading,
    mf_vs_als,
    mlp_cpu,
    new_users,
    one_user,
    other_datasets,
    out_of_core,
    quality,
    report,
    scaling,
    serving,
    sets,
    sharded_rows,
    tuned,
)
from benchmarks.peers import page

TABLES = {
    "cli_startup": cli_startup.table,
    "compare_commits": compare_commits.table,
    "curves": curves.table,
    "sharded_rows": sharded_rows.table,
    "evaluations": evaluations.table,
    "full_ranking": full_ranking.table,
    "gpu": gpu.lines,
    "loading": loading.table,
    "mf": mf_vs_als.table,
    "ml": report.lines,
    "mlp_cpu": mlp_cpu.table,
    "new_users": new_users.table,
    "one_user": one_user.table,
    "sets": sets.table,
    "other_datasets": other_datasets.table,
    "out_of_core": out_of_core.table,
    "peers": page.table,
    "quality": quality.table,
    "scaling": scaling.table,
    "serving": serving.table,
    "tuned": tuned.table,
}
"""Functions that make the lines of a table, by the beginning of the name of its JSON file, up to the first hyphen."""


def bench(name: str, median: float, **info: object) -> dict:
    stats = {"min": median / 2, "median": median, "max": 2 * median, "rounds": 3, "data": [median] * 3}
    return {"name": name, "extra_info": {"shape": "tiny", **info}, "stats": stats}


@pytest.fixture
def raw() -> dict:
    sides = {"pair": "counting", "unit": "beans"}
    return {
        "datetime": "2026-05-04T10:11:12+00:00",
        "machine_info": {
            "node": "secret-name",
            "system": "Linux",
            "python_version": "3.11.7",
            "cpu": {"brand_raw": "Abacus", "count": 2},
        },
        "benchmarks": [
            bench("a", 2.0, **sides, side="loop", what="one by one", units=100),
            bench("b", 1.0, **sides, side="fastncf", what="all at once", units=5000),
            bench("c", 1.0, **sides, side="ceiling", what="looking", units=20_000),
            bench("d", 0.004, pair="first bean", side="fastncf", what="from the jar", units=1, unit="beans"),
            bench("g", 2.0, pair="cooking", side="fastncf", what="in a pot", units=3000, unit="beans"),
            bench("h", 1.0, pair="cooking", side="ceiling", what="boiling", units=3000, unit="beans"),
            bench(
                "i",
                1.0,
                pair="shelling",
                seconds=[3.0, 1.0, 2.0],
                of_ceiling=[1.5, 1.4, 1.6],
                ceiling="peeling",
                peak=1.5e9,
                ceiling_peak=2e9,
            ),
            bench("e", 1.0, pair="humming meanwhile", ratios=[1.0, 1.02, 1.04]),
            bench("f", 1.0, pair="growing", growth={"1000000": [2e-9, 4e-9, 3e-9], "20000000": [4e-9]}),
        ],
    }


def test_table_has_rates_ratio_share_and_the_rest(raw):
    text = "\n".join(report.lines(report.summary(raw)))
    assert "2026-05-04 at the shape tiny: Abacus, 2 cores, Linux, python 3.11.7" in text
    assert "| counting | 50 beans/s: one by one | 5 k beans/s | **100 x** | 25% of the rate of looking |" in text
    assert "- first bean: 4 ms: from the jar" in text
    assert "- cooking: 2 s (1.5 k beans/s): in a pot; 50% of the rate of boiling" in text
    assert "- shelling: 2 s, 1.50 times as long as peeling alone; peak memory 1.50 GB, peeling 2.00 GB" in text
    assert "- humming meanwhile: 102.0% of the time (quartiles 101.0%, 103.0%)" in text
    assert "- growing: 3.00 ns at 1 M, 4.00 ns at 20 M" in text


def test_summary_names_no_machine_and_keeps_no_raw_times(raw):
    text = json.dumps(report.summary(raw))
    assert "secret-name" not in text
    assert '"data"' not in text


def test_picture_shows_each_ratio_and_is_the_same_again(raw, tmp_path):
    found = report.summary(raw)
    for name in ("one.svg", "two.svg"):
        report.draw(found, tmp_path / name)
    picture = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert "100 x" in picture
    assert "counting" in picture
    assert picture == (tmp_path / "two.svg").read_text(encoding="utf-8")


def test_writes_between_its_markers_only(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- suite tiny -->\nold\n<!-- /suite tiny -->\nafter\n", encoding="utf-8")
    report.write_between(path, "suite tiny", "new \\1")
    assert path.read_text(encoding="utf-8") == "before\n<!-- suite tiny -->\nnew \\1\n<!-- /suite tiny -->\nafter\n"
    with pytest.raises(SystemExit, match="expected one <!-- suite large -->"):
        report.write_between(path, "suite large", "new")


@pytest.mark.parametrize("path", sorted(report.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_page_and_picture_show_the_committed_figures(path: Path):
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = TABLES[path.stem.partition("-")[0]]
    assert "\n".join(lines(found)) in report.PAGE.read_text(encoding="utf-8")
    if lines is mf_vs_als.table:
        named = [found["data"]]
    elif lines is report.lines:
        named = [pair for pair, sides in report.pairs(found).items() if "loop" in sides]
    else:
        return
    assert named
    picture = path.with_suffix(".svg").read_text(encoding="utf-8")
    assert all(name in picture for name in named)
