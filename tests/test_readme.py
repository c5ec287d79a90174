"""Check the length of the README, its figures against the measured ones, and the links of all pages."""

import re
import tomllib
from pathlib import Path

import pytest

import fastncf

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]


def table(text: str, header: str) -> list[list[str]]:
    """Return the cells of the first table whose header line starts with ``header``."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.startswith(header))
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_numbers_of_the_readme_are_the_measured_ones():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    measured = {}
    for _, system, hit_ratio, ndcg, source in table(results, "| protocol | system |"):
        seconds = re.search(r"[\d.]+ s(?= of CPU)", source)
        found = *(re.search(r"0\.\d{4}", cell)[0] for cell in (hit_ratio, ndcg)), seconds[0] if seconds else ""
        measured.setdefault(system, found)  # the first protocol, which is MovieLens-1M
    rows = table(README.read_text(encoding="utf-8"), "| system | HR@10 |")
    assert len(rows) >= 6
    for system, *figures in rows:
        assert tuple(figures) == measured[system.partition(" (")[0]], system


def test_rankings_of_the_whole_catalogue_are_the_measured_ones():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    measured, file = {}, ""
    for name, system, hit_ratio, ndcg, *_ in table(results, "| file | system | HR@10, whole catalogue |"):
        file = name or file
        found = ", ".join(re.search(r"0\.\d{4}", cell)[0] for cell in (hit_ratio, ndcg))
        measured[file, system.split(", cross")[0].split(" by cross")[0]] = found
    rows = table(README.read_text(encoding="utf-8"), "| system | MovieLens-1M |")
    assert len(rows) == 5
    for system, *figures in rows:
        for name, found in zip(("`ml-1m-sas.txt`", "`beauty.txt`", "`toys.txt`"), figures, strict=True):
            quoted = system.removesuffix(", quoted").split(" by cross")[0]
            assert found.replace("*", "") == measured.get((name, quoted), ""), (system, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.partition("#")[0]
        if not re.match(r"\w+:", target) and path:
            assert (page.parent / path).exists(), f"{page.name} links to {target}"


def test_the_citation_has_the_version_and_the_licence():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"\nversion: {fastncf.__version__}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation
