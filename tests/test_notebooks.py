import re
import subprocess
import sys
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from typing import get_type_hints

import polars as pl
import pytest

import fastncf
from fastncf.config import Settings
from fastncf.search.result import Tuned
from tests.conftest import checkerboard


@pytest.fixture(scope="module")
def rec():
    return fastncf.fit(checkerboard(), dim=4, epochs=2, l2=0.0)


def shapes(rec):
    """The same model as it stands after a fit, without metrics, with odd names, and with more of everything."""
    odd = "<script>alert(1)</script>\n\x1b[31m" + "x" * 5000
    yield rec
    yield replace(rec, metrics={}, protocol="", found={}, training_log=[])
    yield replace(rec, protocol=odd, found={"source": odd})
    yield replace(rec, metrics={f"metric{number}": 0.5 for number in range(200)})


def test_repr_has_at_most_ten_short_lines(rec):
    for shape in shapes(rec):
        text = repr(shape)
        assert 2 < len(text.split("\n")) <= 10
        assert len(text) < 2000
        assert "\x1b" not in text
        assert all(len(value.rpartition(".")[2]) == 4 for value in re.findall(r"metric\d+ ([\d.]+)", text))
    assert f"protocol: {rec.protocol}\n" in repr(rec)
    assert f"hr@10 {rec.metrics['hr@10']:.4f}" in repr(rec)


def test_repr_names_only_what_a_model_has(rec):
    assert "model: mf, dim 4, loss " in repr(rec)
    popular = fastncf.fit(checkerboard(), model="popularity")
    assert "  model: popularity, which needs no training\n" in repr(popular)
    own = replace(rec.plan, stages=(replace(rec.plan.final, model="Own"),))
    assert own.model_in_words.startswith("Own, loss ")


def test_the_parts_of_a_recommender_have_short_names(rec):
    assert repr(rec.users) == "Vocabulary(60 user ids, Int64)"
    assert repr(rec.items) == "Vocabulary(40 item ids, Int64)"
    size = len(rec.split.indices)
    assert (
        repr(rec.split) == f"Split(60 users, 40 items, {size:,} training interactions, holdout={rec.split.holdout!r})"
    )


def test_what_is_done_has_a_short_repr_and_all_reasons_in_a_notebook(rec):
    neural = fastncf.fit(checkerboard(), model="neumf", dim=4, epochs=1, l2=0.0, progress=False)
    for made in (rec.plan, neural.plan, neural.pretrained, rec.encoder, rec.config):
        assert len(repr(made).split("\n")) <= 10
        assert len(repr(made)) < 1000
    assert repr(neural.plan).startswith(
        "Plan\n  model: neumf, dim 4, loss bce, history none, trained by adam\n  epochs: "
    )
    assert " in 3 stages\n  data: " in repr(neural.plan)
    plan = rec.plan.with_reason("loss", "<script>")
    assert "<script>" in str(plan)
    assert plan._repr_html_() == f"<pre>{escape(str(plan))}</pre>"
    tuned = Tuned(rec.config, 0.5, None, pl.DataFrame({"state": ["complete"] * 900}), {}, None)
    assert repr(tuned) == str(tuned)


def test_repr_html_is_a_table_without_the_markup_of_others(rec):
    class Tags(HTMLParser):
        """Counts open tags."""

        def __init__(self):
            super().__init__()
            self.depth, self.names = 0, set()

        def handle_starttag(self, tag, attrs):
            self.depth, self.names = self.depth + 1, self.names | {tag}

        def handle_endtag(self, tag):
            self.depth -= 1

    for shape in shapes(rec):
        tags = Tags()
        tags.feed(shape._repr_html_())
        assert (tags.depth, tags.names) == (0, {"table", "caption", "tr", "th", "td"})


def test_dir_lists_public_names_alone_and_all_of_them():
    assert dir(fastncf) == sorted([*fastncf.__all__, "__version__"])
    code = (
        "import fastncf; before = dir(fastncf); fastncf.fit; fastncf.datasets; print(before == dir(fastncf), *before)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == ["True", *dir(fastncf)]


def test_typed_settings_are_those_of_config():
    hints, fields = get_type_hints(Settings), fastncf.Config.__dataclass_fields__
    assert {"model", *hints} == set(fields)
    assert "model" not in hints  # an argument of its own
    kinds = get_type_hints(fastncf.Config)
    assert {name for name in hints if hints[name] != kinds[name]} == {
        "before",
        "holdout",
        "k",
        "layers",
        "metrics",
    }  # take more


def test_a_type_checker_marks_an_unknown_setting(tmp_path):
    lines = {
        'fastncf.fit("r.csv", epochs=5, layers=[8, 4], holdout=None, model="mlp")': None,
        'fastncf.fit("r.csv", epoch=5)': 'Unexpected keyword argument "epoch" for "fit"',
        'fastncf.plan_fit("r.csv", lr=0.1)': 'Unexpected keyword argument "lr" for "plan_fit"',
        'fastncf.fit("r.csv", epochs="5")': 'Argument "epochs" to "fit" has incompatible type "str"',
        'fastncf.fit("r.csv", budget="slow")': 'Argument "budget" to "fit" has incompatible type',
    }
    path = tmp_path / "use.py"
    path.write_text("\n".join(["import fastncf", *lines]), encoding="utf-8")
    settings = tmp_path / "mypy.ini"  # other packages take most of the time, and their types are not asked for
    settings.write_text("[mypy]\nfollow_imports = skip\n[mypy-fastncf,fastncf.*]\nfollow_imports = silent\n")
    words = [sys.executable, "-m", "mypy", f"--config-file={settings}", f"--cache-dir={tmp_path}", str(path)]
    found = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    for number, message in enumerate(lines.values(), start=2):
        told = [line for line in found.splitlines() if line.startswith(f"{path}:{number}: error: ")]
        assert len(told) == (message is not None), found
        assert all(str(message) in line for line in told)


def test_what_is_no_path_is_refused(rec):
    for call in (rec.save, fastncf.load):
        for wrong in (None, 3, ["model"]):
            with pytest.raises(fastncf.ConfigError, match=r"^directory=.*: expected the path of a folder$"):
                call(wrong)
