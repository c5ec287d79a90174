"""The file of a page: its content, what it must not contain, and which files it replaces."""

import builtins
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fastncf
from fastncf import cli
from fastncf.errors import ConfigError, DataError, DataNotFoundError, FastNCFError, printable
from tests.conftest import checkerboard
from tests.report.conftest import HOSTILE, hostile


class Elements(HTMLParser):
    """The elements of a page, and the text of each kind."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = [""]
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        self.text.setdefault(self._open[-1], []).append(data)


def elements(path: Path) -> Elements:
    return Elements(path.read_text(encoding="utf-8"))


def data_of(path: Path) -> dict:
    return json.loads("".join(elements(path).text["script"][:1]))


def test_hostile_ids_and_titles_stay_text(page, recommender, titles):
    found = elements(page)
    assert found.tags.count("script") == 3
    assert "img" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    box = data_of(page)["box"]
    assert box["ids"] == recommender.items.ids.to_list()
    expected = dict(titles.iter_rows())
    assert box["names"] == [printable((expected.get(item) or "").strip() or item) for item in box["ids"]]
    points = data_of(page)["charts"]["map"]["data"]["values"]
    assert sorted(point["id"] for point in points) == sorted(map(printable, box["ids"]))


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_ends_the_script_that_holds_it(page, text):
    raw = page.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="report">(.*?)</script>', raw, flags=re.DOTALL)[1]
    assert not set("<>&\u2028\u2029\x1b\n") & set(data)


def test_a_hostile_source_and_columns(tmp_path):
    path = tmp_path / "<b>&\"'.csv"
    checkerboard().rename({"user": "u<i>", "item": "i&amp;", "time": 't"'}).write_csv(path)
    rec = fastncf.fit(str(path), user="u<i>", item="i&amp;", time='t"', epochs=1, dim=4)
    found = elements(rec.report(tmp_path / "page.html"))
    assert not {"b", "i"} & set(found.tags)
    shown = "".join(found.text["p"])
    assert str(path) in shown
    assert 'user = u<i>, item = i&amp;, time = t"' in shown


def test_the_page_needs_no_network(page):
    found = elements(page)
    assert "default-src 'none'" in dict(found.attributes)["content"] or any(
        "default-src 'none'" in (value or "") for _, value in found.attributes
    )
    assert not [value for name, value in found.attributes if name in ("src", "href")]
    assert "link" not in found.tags


def test_what_is_shown(page, recommender):
    content = page.read_text(encoding="utf-8")
    for value in recommender.metrics.values():
        assert f"<dd>{value:.4f}</dd>" in content
    assert "1 + 99 candidates" in content
    assert "trainer history_sgd" in content or "trainer block_sgd" in content
    assert set(data_of(page)["charts"]) == {"hr", "ndcg", "loss", "validation", "time", "popularity", "map"}


def test_curves_end_at_the_metrics_of_the_model(page, recommender):
    charts = data_of(page)["charts"]
    for name in ("hr", "ndcg"):
        rows = {(row["series"], row["k"]): row for row in charts[name]["data"]["values"]}
        model = recommender.plan.final.model
        assert rows[model, 10]["mean"] == pytest.approx(recommender.metrics[f"{name}@10"])
        assert rows[model, 1]["low"] < rows[model, 1]["mean"] < rows[model, 1]["high"]
        assert ("most popular", 20) in rows


def test_coverage_is_that_of_the_recommendations(page, recommender):
    frame = recommender.recommend(recommender.users.ids)
    assert f"hold {frame['item'].n_unique()} different items" in page.read_text(encoding="utf-8")


def test_a_model_without_vectors_and_epochs(tmp_path):
    path = fastncf.fit(checkerboard(), model="popularity").report(tmp_path / "page.html")
    content = path.read_text(encoding="utf-8")
    assert "has no vectors of items" in content
    assert "Nothing was trained in epochs" in content
    assert len(data_of(path)["box"]["ids"]) == 40
    assert set(data_of(path)["charts"]) == {"hr", "ndcg", "time", "popularity"}


def test_a_model_that_holds_nothing_out(recommender, tmp_path):
    split = replace(recommender.split, test_item=np.full_like(recommender.split.test_item, -1))
    path = replace(recommender, split=split).report(tmp_path / "page.html")
    content = path.read_text(encoding="utf-8")
    assert "holds no items out" in content
    assert f"<dd>{recommender.metrics['hr@10']:.4f}</dd>" in content  # as it was measured before
    assert not {"hr", "ndcg"} & set(data_of(path)["charts"])


@pytest.mark.parametrize("model", ["gmf", "mlp", "neumf"])
def test_other_models(tmp_path, model):
    rec = fastncf.fit(checkerboard(), model=model, dim=4, epochs=1)
    assert len(data_of(rec.report(tmp_path / "page.html"))["box"]["ids"]) == 40


def test_users_who_have_seen_everything(recommender, tmp_path, monkeypatch):
    nothing = recommender.recommend(recommender.users.ids[0]).head(0)
    monkeypatch.setattr(type(recommender), "recommend", lambda *_, **__: nothing)
    path = recommender.report(tmp_path / "page.html")
    assert "Every user has seen every item" in path.read_text(encoding="utf-8")
    assert "popularity" not in data_of(path)["charts"]


def test_a_saved_model_gives_the_same_page(recommender, titles, page, tmp_path):
    recommender.save(tmp_path / "model")
    again = fastncf.load(tmp_path / "model").report(tmp_path / "page.html", titles=titles)
    assert data_of(again) == data_of(page)


def test_a_large_catalogue_makes_a_page_of_a_few_megabytes(tmp_path):
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 300, 60_000), generator.permutation(60_000) % 27_000
    frame = pl.DataFrame({"user": users, "item": items, "time": np.arange(60_000)})
    titles = pl.DataFrame(
        {"item": range(27_000), "title": [f"A title of usual length {n} (1999)" for n in range(27_000)]}
    )
    path = fastncf.fit(frame, dim=64, epochs=1).report(tmp_path / "page.html", titles=titles)
    assert path.stat().st_size < 5_000_000
    assert "To keep this file small" in path.read_text(encoding="utf-8")
    assert len(data_of(path)["charts"]["map"]["data"]["values"]) == 2_500


def test_a_report_replaces_a_report_and_nothing_else(recommender, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<html>my own page</html>", encoding="utf-8")
    with pytest.raises(DataError, match=r"page\.html: is no report; expected a new file"):
        recommender.report(path)
    assert path.read_text(encoding="utf-8") == "<html>my own page</html>"
    path.unlink()
    recommender.report(path)
    recommender.report(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("name", ["folder.html", "missing/page.html"])
def test_places_that_cannot_be_written(recommender, tmp_path, name):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(DataError, match="expected the name of a file"):
        recommender.report(tmp_path / name)


@pytest.mark.parametrize("path", [None, 3, b"page.html", ["page.html"], "page.pdf", Path("page")])
def test_what_is_no_path_is_said(recommender, path):
    with pytest.raises(ConfigError, match=r"^report: .*: expected the path of a file whose name ends in \.html$"):
        recommender.report(path)


def test_missing_packages(recommender, tmp_path, monkeypatch):
    def refuse(name, *rest, real=builtins.__import__, **keywords):
        if name == "altair":
            raise ImportError("no altair", name="altair")
        return real(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(FastNCFError, match=r"needs the package altair.*pip install 'fastncf\[report\]'"):
        recommender.report(tmp_path / "page.html")


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(words))
    return stopped.value.code or 0


def test_command_line(recommender, titles, tmp_path, capsys):
    recommender.save(tmp_path / "model")
    assert run("report", str(tmp_path / "model")) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "model" / "report.html")
    assert fastncf.load(tmp_path / "model").metrics == recommender.metrics
    titles.write_parquet(tmp_path / "titles")
    out = tmp_path / "other.html"
    assert run("report", str(tmp_path / "model"), "--out", str(out), "--titles", str(tmp_path / "titles")) == 0
    assert hostile(9) in data_of(out)["box"]["names"]
    assert run("report", str(tmp_path / "model"), "--titles", "nowhere.csv") == 3
    assert run("report", str(tmp_path / "nothing")) == 3


def test_titles_are_checked(recommender, tmp_path):
    with pytest.raises(DataNotFoundError, match="no such file"):
        recommender.report(tmp_path / "page.html", titles="nowhere.csv")
    assert not (tmp_path / "page.html").exists()
