import json
import subprocess
import sys

import polars as pl
import pytest

import fastncf
from fastncf import cli
from tests.conftest import checkerboard

FAST = ["--dim", "4", "--epochs", "2", "--num-negatives", "2"]


@pytest.fixture
def ratings(tmp_path):
    path = tmp_path / "ratings.csv"
    data = pl.concat([checkerboard(), checkerboard().head(5)])
    data.select(userId="user", movieId="item", rating=pl.lit(4.0), timestamp="time").write_csv(path)
    return path


def run(capsys, *arguments) -> tuple[int, list[str], str]:
    """Exit code, lines of stdout, and stderr of a command line."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return exit_.value.code or 0, captured.out.splitlines(), captured.err


def test_fit_prints_metrics_protocol_and_seconds(capsys, ratings):
    code, out, err = run(capsys, "fit", ratings, *FAST)
    assert code == 0
    assert [line.split()[0] for line in out] == ["HR@10", "NDCG@10", "MRR", "protocol:", "seconds:"]
    assert "separated by ',', with header; user = userId, item = movieId, time = timestamp; 1,025 rows" in err
    assert "1,020 interactions of 60 users with 40 items" in err
    assert "5 repeated (user, item) rows were counted once" in err
    assert "stage 1 of 1: mf by sgd, trainer history_sgd" in err
    assert "  epochs             2             as asked for" in err


def test_json_is_one_object_on_the_last_line(capsys, ratings):
    code, out, _ = run(capsys, "fit", ratings, *FAST, "--json", "--seed", 5, "--full-ranking")
    report = json.loads(out[-1])
    assert code == 0
    assert set(report) == {"metrics", "protocol", "config", "plan", "data", "seconds", "training_log"}
    assert set(report["metrics"]) == {"hr@10", "ndcg@10", "mrr", "full/hr@10", "full/ndcg@10", "full/mrr"}
    assert report["config"] | {"dim": 4, "epochs": 2, "seed": 5} == report["config"]
    assert report["data"] == {
        "users": 60,
        "items": 40,
        "interactions": 1020,
        "num_duplicates": 5,
        "num_users_all_seen": 0,
        "num_users_too_short": 0,
        "num_items_unknown": 0,
        "num_test_items_unknown": 0,
        "num_candidates_unknown": 0,
        "num_candidates_seen": 0,
    }
    assert set(report["seconds"]) == {"read", "split", "tune", "sample", "train", "evaluate", "total"}


def test_fit_evaluate_recommend(capsys, ratings, tmp_path):
    model = tmp_path / "model"
    _, out, _ = run(capsys, "fit", ratings, *FAST, "--out", model)
    assert out[-1] == f"saved to {model}"
    metrics = fastncf.load(model).metrics
    code, again, _ = run(capsys, "evaluate", model, "--json")
    assert code == 0
    assert json.loads(again[-1])["metrics"] == metrics
    _, other, _ = run(capsys, "evaluate", model, "--num-candidates", 5, "--k", 3, "--full-ranking")
    assert other[0].startswith("HR@3")
    assert other[3].startswith("full HR@3")
    assert "1 + 5 candidates drawn uniformly without" in other[-1]
    code, out, _ = run(capsys, "recommend", model, "--user", 4, "--user", 7, "--k", 3, "--json")
    assert code == 0
    assert out[0].split("\t") == ["user", "item", "score", "rank"]
    expected = fastncf.load(model).recommend([4, 7], k=3)
    assert [int(line.split("\t")[1]) for line in out[1:7]] == expected["item"].to_list()
    assert json.loads(out[-1])["recommendations"] == expected.to_dicts()


def test_every_setting_is_a_flag(capsys):
    code, out, _ = run(capsys, "fit", "--help")
    text = "\n".join(out)
    assert code == 0
    for name in fastncf.Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    for flag in ("--test", "--candidates", "--out", "--json", "--notebook", "--user", "--item", "--time"):
        assert flag in text


def test_notebook_fills_the_flags_that_were_not_given(capsys, ratings):
    _, out, _ = run(capsys, "fit", ratings, "--json", "--notebook", "--epochs", 1, "--batch-size", 16384)
    config = json.loads(out[-1])["config"]
    notebook = fastncf.Config.notebook(epochs=1, batch_size=16384)
    assert fastncf.Config.from_dict(config) == notebook


def test_settings_reach_the_fit(capsys, ratings):
    flags = ["--layers", "8", "--layers", "4", "--model", "neumf", "--loss", "bpr", "--no-shuffle", "--validation"]
    _, out, _ = run(capsys, "fit", ratings, *FAST, *flags, "--json")
    config = json.loads(out[-1])["config"]
    assert config["layers"] == [8, 4]
    assert (config["model"], config["loss"], config["shuffle"], config["validation"]) == ("neumf", "bpr", False, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fit", "nowhere.csv"], 3, "nowhere.csv: no such file"),
        (["fit", "{ratings}", "--user", "nobody"], 3, "has no column 'nobody' for user="),
        (["fit", "{ratings}", "--dim", "0"], 2, "dim=0: expected an integer of at least 1"),
        (["fit", "{ratings}", "--dim", "x"], 2, "--dim"),
        (["fit", "{ratings}", "--nonsense"], 2, "--nonsense"),
        (["fit"], 2, "ratings"),
        (["fit", "{ratings}", "--device", "cuda:99"], 4, "is not available here"),
        (["fit", "{ratings}", "--device", "meta"], 4, "; expected"),
        (["evaluate", "nowhere"], 3, "holds no fastncf model"),
        (["recommend", "nowhere", "--user", "1"], 3, "holds no fastncf model"),
        (["generate", "x.csv", "--users", "0"], 2, "num_users"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(capsys, ratings, arguments, code, message):
    got, out, err = run(capsys, *(argument.format(ratings=ratings) for argument in arguments))
    assert got == code
    assert out == []
    assert err.startswith("fastncf: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_wrong_out_is_refused_before_the_fit(capsys, ratings, tmp_path, monkeypatch):
    monkeypatch.setattr("fastncf.train.fit", lambda *args, **kwargs: pytest.fail("the fit ran"))
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "model"):
        code, _, err = run(capsys, "fit", ratings, "--out", out)
        assert code == 3
        assert err.startswith(f"fastncf: {out}: ")
        assert err.count("\n") == 1


def test_debug_shows_the_traceback(ratings):
    with pytest.raises(fastncf.DataNotFoundError):
        cli.main(["fit", "nowhere.csv", "--debug"])


def test_interrupted(capsys, ratings, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastncf.train.fit", interrupt)
    code, _, err = run(capsys, "fit", ratings)
    assert code == 130
    assert err == "fastncf: interrupted\n"


def test_generate_writes_what_fit_reads(capsys, tmp_path):
    path = tmp_path / "ratings.csv"
    size = ["--users", 300, "--items", 200, "--interactions", 9000]
    code, out, _ = run(capsys, "generate", path, *size, "--dialect", "kaggle")
    assert (code, out) == (0, [str(path)])
    code, out, _ = run(capsys, "fit", path, *FAST, "--json")
    assert json.loads(out[-1])["data"]["users"] == 300


def test_as_a_module_and_version():
    out = subprocess.run([sys.executable, "-m", "fastncf", "--version"], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == fastncf.__version__


def test_progress_bar_on_a_terminal_only(ratings, monkeypatch):
    with cli._progress_shown() as callback:
        assert callback is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with cli._progress_shown() as bar:
        assert isinstance(bar, cli._Bar)
    told = []
    fastncf.fit(ratings, epochs=1, dim=4, validation=True, callback=lambda news: told.append(bar(news)))
    (task,) = bar.progress.tasks
    assert (task.completed, task.total) == (1, 1)
    assert "M samples/s" in task.fields["status"]
    assert "hr@10" in task.fields["status"]
