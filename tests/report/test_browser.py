"""Pages in a browser: charts are drawn, nothing is complained about, and the box gives the model's own answers."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import polars as pl
import pytest
import torch

import fastncf
from fastncf.errors import printable
from fastncf.models.gmf import GMF
from fastncf.report import sections
from fastncf.serving import solving

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium in PATH: pages are not opened in a browser")


def open_page(
    page: Path,
    tmp_path: Path,
    liked: Sequence[str] = (),
    script: str = "",
    size: str = "1000,800",
    options: Sequence[str] = (),
) -> str:
    """Return the document after the page has run, without any complaint of the browser.

    Args:
        page: the file.
        tmp_path: folder for the profile of the browser, and for the page with the script.
        liked: ids of items that are picked by the address.
        script: JavaScript that runs after the page's own.
        size: width and height of the window.
        options: further options of the browser.
    """
    if script:
        content = page.read_text(encoding="utf-8")
        page = tmp_path / "with-script.html"
        before, end, after = content.rpartition("</body>")
        page.write_text(f"{before}<script>{script}</script>{end}{after}", encoding="utf-8")
    address = page.as_uri() + ("#" + urlencode([("liked", item) for item in liked]) if liked else "")
    ran = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={size}", "--enable-logging=stderr"),
            *(*options, "--virtual-time-budget=20000", "--dump-dom", address),
        ],
        capture_output=True,
        timeout=180,
    )
    complaints = [line for line in ran.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    assert complaints == []
    return ran.stdout.decode()


def answers(document: str) -> list[tuple[str, float]]:
    """The ids and scores of the recommended items."""
    found = re.search(r'<ol id="answers".*?</ol>', document, flags=re.DOTALL)[0]
    return [
        (
            unescape(re.search(r'data-item="(.*?)"', line, flags=re.DOTALL)[1]),
            float(re.search(r'data-score="(.*?)"', line)[1]),
        )
        for line in re.findall(r"<li .*?>", found, flags=re.DOTALL)
    ]


def test_all_charts_are_drawn_and_titles_are_text(page, tmp_path):
    document = open_page(page, tmp_path, script="document.body.dataset.title = document.title")
    assert 'data-state="drawn"' in document
    charts = re.findall(r'<div class="chart[^"]*" id="(\w+)".*?</svg>', document, flags=re.DOTALL)
    assert charts == ["hr", "ndcg", "loss", "validation", "time", "popularity", "map"]
    map_of_items = re.search(r'id="map".*?</svg>', document, flags=re.DOTALL)[0]
    assert map_of_items.count("<path") > 40
    assert 'data-title="fastncf: mf"' in document


@pytest.fixture(scope="module")
def skewed(frame):
    """Interactions with all items, some of which are popular."""
    return frame.filter((pl.col("user") % 10 < 2) | pl.col("item").str.contains("[0-3]$"))


@pytest.mark.parametrize("settings", [{"loss": "bce", "negatives": "popularity"}, {"loss": "softmax"}])
@pytest.mark.parametrize("numbers", [[0], [30, 11, 2]])
def test_a_history_gets_the_models_own_answers(skewed, tmp_path, settings, numbers):
    recommender = fastncf.fit(skewed, dim=8, epochs=2, history="sequence", seed=1, **settings)
    liked = recommender.items.ids.gather(numbers).to_list()
    expected = recommender.recommend(history=liked, k=10)
    page = recommender.report(tmp_path / "page.html")
    found = answers(open_page(page, tmp_path, [*liked, "an item that is not there", liked[0]]))
    assert [score for _, score in found] == pytest.approx(expected["score"].to_list(), abs=1e-4)
    assert [item for item, _ in found] == expected["item"].to_list()


def test_a_user_is_solved_for_by_a_sample_of_the_negatives(skewed, tmp_path, monkeypatch):
    """Items are left out of the page, but not those of the sample."""
    monkeypatch.setattr(solving, "NUM_NEGATIVES", 20)
    monkeypatch.setattr(sections, "MAX_BYTES", 30 * 2 * (8 + 4))
    settings = {"loss": "bce", "history": "bag", "negatives": "popularity", "l2": 1e-3}
    recommender = fastncf.fit(skewed, dim=8, epochs=2, seed=1, **settings)
    liked = recommender.items.ids.gather([4, 12, 1]).to_list()
    page = recommender.report(tmp_path / "page.html")
    assert "only 30 of 40 items are here" in page.read_text(encoding="utf-8")
    expected = dict(recommender.recommend(history=liked, k=37).select("item", "score").iter_rows())
    found = answers(open_page(page, tmp_path, liked))
    assert len(found) == 10
    assert [score for _, score in found] == pytest.approx([expected[item] for item, _ in found], abs=0.02)


KINDS = {
    "bce": {"loss": "bce", "history": "sequence"},
    "bce, none": {"loss": "bce", "history": "none"},
    "softmax, bag": {"loss": "softmax", "history": "bag"},
    "mf by adam": {"loss": "bce", "optimizer": "adam"},
    "gmf": {"model": "gmf"},
    "mlp": {"model": "mlp", "layers": (16, 8)},
    "neumf": {"model": "neumf", "layers": (16, 8)},
    "neumf, none": {"model": "neumf", "layers": (16, 8), "optimizer": "adam", "mlp_dim": 4},
    "popularity": {"model": "popularity"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_model_gives_its_own_answers(skewed, tmp_path, kind):
    settings = KINDS[kind] | ({} if kind == "popularity" else {"dim": 8, "epochs": 4})
    recommender = fastncf.fit(skewed, seed=1, device="cpu", progress=False, **settings)
    liked = recommender.items.ids.gather([5, 17, 2]).to_list()
    expected = recommender.recommend(history=liked, k=37)
    found = answers(open_page(recommender.report(tmp_path / "page.html"), tmp_path, liked))
    scores = dict(expected.select("item", "score").iter_rows())
    assert [score for _, score in found] == pytest.approx(expected["score"].head(10).to_list(), abs=1e-3)
    assert [score for _, score in found] == pytest.approx([scores[item] for item, _ in found], abs=1e-3)


def test_a_module_of_ones_own_shows_similar_items(skewed, tmp_path):
    class Own(GMF):
        """Scores by a forward of its own, which no page knows."""

    recommender = fastncf.fit(skewed, model=Own(60, 40, 8, torch.Generator().manual_seed(0)), epochs=2, progress=False)
    liked = recommender.items.ids.gather([2, 11, 30]).to_list()
    similar = pl.concat([recommender.similar_items(item, k=39) for item in liked])
    mean = similar.filter(~pl.col("similar_item").is_in(liked)).group_by("similar_item").agg(pl.col("score").mean())
    expected = mean.sort("score", descending=True).head(10)
    found = answers(open_page(recommender.report(tmp_path / "page.html"), tmp_path, liked))
    assert [score for _, score in found] == pytest.approx(expected["score"].to_list(), abs=1e-5)
    assert [item for item, _ in found] == expected["similar_item"].to_list()


CLICKS = """
const search = document.getElementById("search"), found = document.getElementById("found");
const type = (text) => { search.value = text; search.dispatchEvent(new Event("input")); };
type("TITLE 2");
document.body.dataset.found = [...found.children].map((element) => element.textContent).join("|");
found.children[1].click();
type("title 15#15");
search.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
document.body.dataset.hash = location.hash;
document.getElementById("liked").children[0].click();
document.body.dataset.left = document.getElementById("liked").textContent;
"""


def test_items_are_found_picked_and_removed(page, titles, tmp_path):
    document = open_page(page, tmp_path, script=CLICKS)
    in_order = [title for item, title in titles.iter_rows() if "title 2" in f"{title} {item}"]
    assert unescape(re.search(r'data-found="(.*?)"', document)[1]).split("|") == in_order[:8]
    assert unescape(re.search(r'data-hash="(.*?)"', document)[1]).count("liked=") == 2
    assert re.search(r'data-left="(.*?)"', document)[1] == f"{dict(titles.iter_rows())['title 15#15']} \u00d7"
    assert len(answers(document)) == 10


WIDTH = """
document.body.dataset.width = `${document.documentElement.scrollWidth} ${window.innerWidth}`;
const drawn = setInterval(() => {
  if (document.documentElement.dataset.state !== "drawn") return;
  clearInterval(drawn);
  document.body.dataset.width = `${document.documentElement.scrollWidth} ${window.innerWidth}`;
}, 50);
"""


HOVER = """
const shown = [];
const drawn = setInterval(async () => {
  if (document.documentElement.dataset.state !== "drawn") return;
  clearInterval(drawn);
  for (const point of document.querySelectorAll("#map .mark-symbol.role-mark path")) {
    const { left, top, width, height } = point.getBoundingClientRect();
    const at = { bubbles: true, clientX: left + width / 2, clientY: top + height / 2 };
    for (const kind of ["pointerover", "pointermove"]) point.dispatchEvent(new PointerEvent(kind, at));
    const tooltip = document.getElementById("vg-tooltip-element");
    shown.push(tooltip.querySelector("td.value").textContent);
    document.body.dataset.tags = [...new Set([...tooltip.querySelectorAll("*")].map((tag) => tag.tagName))].sort();
  }
  document.body.dataset.shown = JSON.stringify(shown);
}, 50);
"""


def test_titles_are_shown_as_text_on_hover(page, titles, tmp_path):
    document = open_page(page, tmp_path, script=HOVER)
    shown = json.loads(unescape(re.search(r'data-shown="(.*?)"', document)[1]))
    known = {printable(title.strip()) for title in titles["title"] if title.strip()}
    assert known <= set(shown)
    assert re.search(r'data-tags="(.*?)"', document)[1] == "TABLE,TBODY,TD,TR"


@pytest.mark.parametrize("size", ["500,900", "1400,900"])
def test_nothing_is_wider_than_the_window(page, tmp_path, size):
    document = open_page(page, tmp_path, script=WIDTH, size=size)
    content, window = map(int, re.search(r'data-width="(\d+) (\d+)"', document).groups())
    assert content <= window
    assert window <= int(size.partition(",")[0])


def test_the_colours_follow_the_system(page, tmp_path):
    light = open_page(page, tmp_path)
    dark = open_page(page, tmp_path, options=["--blink-settings=preferredColorScheme=0"])
    colours = [set(re.findall(r'fill="(#[0-9a-f]{6})"', document)) for document in (light, dark)]
    assert "#1c2026" in colours[0] - colours[1]
    assert "#e6e9ed" in colours[1] - colours[0]
