"""Models side by side: values as those of ``evaluate``, objects that only score, refusals, and forms of the tables."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fastncf
from fastncf import cli
from fastncf.errors import ConfigError, DataError, DivergedError, FastNCFError

SETTINGS: dict[str, Any] = {"device": "cpu", "progress": False, "num_candidates": 20, "full_ranking": True, "k": 5}


def data(num_users: int = 60, seed: int = 0) -> pl.DataFrame:
    """Return users with 6 to 15 of 40 items, whose ids are text."""
    random = np.random.default_rng(seed)
    rows = [
        (f"u{user}", f"item & {item}", place)
        for user in range(num_users)
        for place, item in enumerate(random.permutation(40)[: random.integers(6, 16)])
    ]
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


class Scores:
    """An object that scores by a table of its own, as a wrapped model of another package does."""

    def __init__(self, model: "fastncf.Recommender", as_frame: bool = False) -> None:
        self.model, self.as_frame = model, as_frame

    def score(self, users: np.ndarray, items: np.ndarray) -> Any:
        found = self.model.score(list(users), list(items))
        return found if self.as_frame else found["score"].to_list()


class Answers:
    """An object that answers with whatever it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def score(self, users: np.ndarray, items: np.ndarray) -> Any:
        return self.answer(len(users))


@pytest.fixture(scope="module")
def mf() -> "fastncf.Recommender":
    return fastncf.fit(data(), loss="bce", epochs=3, dim=8, **SETTINGS)


@pytest.fixture(scope="module")
def popular() -> "fastncf.Recommender":
    return fastncf.fit(data(), model="popularity", **SETTINGS)


def test_the_metrics_are_those_of_evaluate_whoever_scores(
    mf: "fastncf.Recommender", popular: "fastncf.Recommender"
) -> None:
    found = fastncf.compare(mf, popular, Scores(mf), Scores(popular, as_frame=True), samples=100)
    assert found.names == ("mf", "popularity", "Scores 1", "Scores 2")
    table = found.metrics()
    for model, rows in ((mf, (0, 2)), (popular, (1, 3))):
        for label, value in model.metrics.items():
            assert [table[label][row] for row in rows] == pytest.approx([value] * 2)
    for label, values in found.values.items():
        assert table[f"{label} error"][0] == pytest.approx(values[0].std(ddof=1) / len(values[0]) ** 0.5)
    same = found.differences().filter(first="mf", second="Scores 1")
    assert same["difference"].to_list() == [0.0] * len(found.values)
    assert same["p"].to_list() == [1.0] * len(found.values)
    others = found.differences().filter(first="mf", second="popularity", metric="full/ndcg@5")
    assert others["difference"].item() == pytest.approx(mf.metrics["full/ndcg@5"] - popular.metrics["full/ndcg@5"])
    assert (found.differences()["p_corrected"] >= found.differences()["p"]).all()


def test_names_differ(popular, tmp_path):
    """A number behind a name does not make it that of another model."""
    popular.save(tmp_path / "popularity 1")
    found = fastncf.compare(popular, tmp_path / "popularity 1", popular, samples=1, seed=2**63 - 1)
    assert found.names == ("popularity 2", "popularity 1", "popularity 3")


def test_names_are_text_in_markdown_and_latex(popular):
    found = fastncf.compare(popular, popular, names=["a*b*|`<i>[x]", "\\{}~^<|>&%$#_"], samples=1)
    assert r"| a\*b\*\|\`\<i>\[x] |" in found.to_markdown()
    special = r"\textbackslash{}\{\}\textasciitilde{}\textasciicircum{}\textless{}\textbar{}\textgreater{}\&\%\$\#\_ &"
    assert special in found.to_latex()


def test_saved_models_in_every_form(
    mf: "fastncf.Recommender", popular: "fastncf.Recommender", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = tmp_path / "a_b", tmp_path / "popular|one"
    for model, folder in zip((mf, popular), folders, strict=True):
        model.save(folder)
    found = fastncf.compare(*folders, samples=10_000)
    asked: dict[str, Any] = {"k": [1, 3], "metrics": ["ndcg"], "candidate_sampling": "popularity"}
    others = fastncf.compare(*folders, **asked)
    assert "drawn by popularity" in others.protocol
    options_of_others = ["--k", "1", "--k", "3", "--metrics", "ndcg", "--candidate-sampling", "popularity", "--json"]
    words = ["compare", *map(str, folders)]
    for options, expected in (
        ([], str(found)),
        (["--format", "markdown"], found.to_markdown()),
        (["--format", "latex"], found.to_latex()),
        (["--json"], found.to_json()),
        (options_of_others, others.to_json()),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*words, *options])
        assert not stopped.value.code
        assert capsys.readouterr().out.rstrip("\n") == expected
    assert r"| popular\|one |" in found.to_markdown()
    assert r"a\_b & " in found.to_latex()
    swapped = fastncf.compare(*reversed(folders), samples=10).to_latex()
    assert "$-$0." in found.to_latex() + swapped
    assert not re.search(r" -\d", found.to_latex() + swapped)
    assert found.to_latex().count(r" \\") == 2 + 1 + 1 + len(found.values) + 1  # with popularity and two headings
    values = json.loads(found.to_json())
    assert values["popularity"] == {label: pytest.approx(row[1].mean()) for label, row in found.values.items()}
    assert [row["model"] for row in values["models"]] == ["a_b", "popular|one"]
    assert len(values["differences"]) == len(found.values)
    assert values["users"] == 60
    with pytest.raises(SystemExit) as stopped:
        cli.main(words[:2])
    assert stopped.value.code == 2
    assert "1 model; expected two or more" in capsys.readouterr().err


def test_other_settings_are_asked_of_all(mf: "fastncf.Recommender", popular: "fastncf.Recommender") -> None:
    found = fastncf.compare(popular, mf, k=[1, 3], num_candidates=7, full_ranking=False, metrics=["ndcg"], samples=10)
    assert list(found.values) == ["ndcg@1", "ndcg@3"]
    alone = mf.evaluate(k=3, num_candidates=7, full_ranking=False, metrics=["ndcg"])
    assert found.metrics()["ndcg@3"][1] == pytest.approx(alone.metrics["ndcg@3"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"split": "random"}, "different items held out, such as those of user 'u"),
        ({"train": data(num_users=59)}, "do not know the same users ('u59' is in the first only)"),
        ({"train": data(seed=1)}, "different items held out"),
        ({"holdout": None, "full_ranking": False, "num_candidates": 99, "k": 10}, "nothing is held out in mf 2"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(
    mf: "fastncf.Recommender", changes: dict[str, Any], said: str
) -> None:
    settings = {**SETTINGS, "loss": "bce", "epochs": 1, **changes}
    other = fastncf.fit(settings.pop("train", data()), **settings)
    with pytest.raises(FastNCFError) as raised:
        fastncf.compare(mf, other)
    assert said in str(raised.value)
    if changes.get("holdout", "one") is not None:
        with pytest.raises(FastNCFError):
            fastncf.compare(other, mf)


def test_other_training_interactions_are_refused(mf: "fastncf.Recommender") -> None:
    rows = data()
    without = rows.filter(~((pl.col("user") == "u3") & (pl.col("time") == 0)))
    other = fastncf.fit(without, model="popularity", **SETTINGS)
    with pytest.raises(DataError, match="were fitted to different interactions"):
        fastncf.compare(mf, other)


def test_scores_of_narrow_dtypes_are_taken(popular: "fastncf.Recommender") -> None:
    torch = pytest.importorskip("torch")
    found = [
        fastncf.compare(popular, Answers(answer), samples=10, metrics=["mrr"]).values["mrr"][1]
        for answer in (np.zeros, lambda size: torch.zeros(size, dtype=torch.bfloat16, requires_grad=True))
    ]
    assert np.array_equal(*found)


def test_what_a_mask_hides_is_no_score(popular: "fastncf.Recommender") -> None:
    def masked(size: int) -> Any:
        return np.ma.masked_array(np.arange(size), mask=np.arange(size) % 2 == 0)

    def with_nan(size: int) -> Any:
        return masked(size).astype(float).filled(np.nan)

    found = fastncf.compare(popular, Answers(masked), Answers(with_nan), samples=10).values
    assert all(np.array_equal(values[1], values[2]) for values in found.values())


def test_numbers_of_numpy_are_numbers(popular: "fastncf.Recommender") -> None:
    plain: dict[str, Any] = {"confidence": 0.5, "samples": 20, "seed": 3}
    of_numpy = {"confidence": np.float32(0.5), "samples": np.int64(20), "seed": np.int32(3)}
    texts = [fastncf.compare(popular, popular, **given).to_json() for given in (plain, of_numpy)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (lambda size: np.zeros(size + 1), DataError, "Answers: score: returned"),
        (lambda size: np.zeros((size, 1)), DataError, "Answers: score: returned"),
        (lambda size: ["x"] * size, DataError, "expected a number for each pair"),
        (lambda size: None, DataError, "expected a number for each pair"),
        (lambda size: np.full(size, np.nan), DivergedError, "Answers has no finite score"),
    ],
)
def test_wrong_scores_are_refused(
    popular: "fastncf.Recommender", answer: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        fastncf.compare(popular, Answers(answer))


@pytest.mark.parametrize(
    ("models", "settings", "said"),
    [
        ((), {}, "0 models"),
        ((0,), {}, "1 model;"),
        ((0, 3.5), {}, "float is a float; expected a fitted model"),
        ((Answers(np.zeros), Answers(np.zeros)), {}, "none of the models is one of fastncf"),
        ((0, 0), {"names": ["a"]}, "expected 2 different names"),
        ((0, 0), {"names": ["a", "a"]}, "expected 2 different names"),
        ((0, 0), {"names": "ab"}, "expected 2 different names"),
        ((0, 0), {"confidence": 1}, "confidence=1: expected a number above 0 and below 1"),
        ((0, 0), {"confidence": float("nan")}, "confidence=nan"),
        ((0, 0), {"samples": 0}, "samples=0"),
        ((0, 0), {"seed": 2**63}, "seed=9223372036854775808: expected an integer of at least 0 and below 2**63"),
        ((0, 0), {"seed": -1}, "seed=-1"),
        ((0, 0), {"metrics": ["auc"]}, "'auc' is unknown"),
    ],
)
def test_wrong_arguments_are_refused(
    popular: "fastncf.Recommender", models: tuple[Any, ...], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        fastncf.compare(*(popular if model == 0 else model for model in models), **settings)
    assert said in str(raised.value)


def test_what_an_object_raises_goes_on_with_a_note_on_the_model(popular: "fastncf.Recommender") -> None:
    def answer(size: int) -> Any:
        raise KeyError(size)

    with pytest.raises(KeyError) as raised:
        fastncf.compare(popular, Answers(answer), names=["ours", "theirs"])
    assert "the score of theirs was called with two arrays of raw ids" in raised.value.__notes__[0]
