import inspect
import io
import json
import logging
import math
import re
import signal
import subprocess
import sys
import threading
import warnings

import polars as pl
import pytest
import torch

import fastncf
from fastncf import cli, progress
from fastncf.cli.app import app
from fastncf.cli.messages import USAGE, as_options
from fastncf.cli.output import print_json
from fastncf.persistence.folder import FORMAT
from fastncf.plan import make_plan
from fastncf.streams import Terminated
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
    assert [line.split()[0] for line in out] == ["HR@10", "NDCG@10", "MRR", "±:", "protocol:", "seconds:"]
    assert "separated by ',', with header; user = userId, item = movieId, time = timestamp; 1,025 rows" in err
    assert "1,020 interactions of 60 users with 40 items" in err
    assert "5 repeated (user, item) rows were counted once" in err
    assert "stage 1 of 1: mf by sgd, trainer history_sgd" in err
    assert re.search(r"^  --epochs +2 +as asked for$", err, re.MULTILINE)


def test_every_command_takes_json():
    commands = {name: app[name].default_command for name in app if not name.startswith("-")}
    assert {"fit", "generate", "export", "report"} <= commands.keys()
    for name, command in commands.items():
        assert "json" in inspect.signature(command).parameters, name


def test_what_is_written_is_told_as_json(capsys, numbered, tmp_path):
    _, out, _ = run(capsys, "generate", tmp_path / "r.csv", "--users", 9, "--items", 9, "--interactions", 40, "--json")
    assert list(map(json.loads, out)) == [{"out": str(tmp_path / "r.csv")}]
    _, out, _ = run(capsys, "export", numbered, tmp_path / "v.npz", "--json")
    assert list(map(json.loads, out)) == [{"out": str(tmp_path / "v.npz"), "files": [str(tmp_path / "v.npz")]}]
    _, out, _ = run(capsys, "report", numbered, "--out", tmp_path / "r.html", "--json")
    assert list(map(json.loads, out)) == [{"out": str(tmp_path / "r.html")}]


@pytest.mark.parametrize("noun", ["user", "item"])
def test_tables_without_a_row_are_refused(capsys, numbered, tmp_path, noun):
    (tmp_path / "ids.csv").write_text(f"{noun}\n")
    pl.DataFrame({noun: []}, schema={noun: pl.Int64}).write_parquet(tmp_path / "ids.parquet")
    for name in ("ids.csv", "ids.parquet"):
        options = ["--users", tmp_path / name] if noun == "user" else ["--user", 1, "--items", tmp_path / name]
        code, out, err = run(capsys, "recommend", numbered, *options)
        assert (code, out) == (3, [])
        assert f"{name}: holds no {noun}; expected at least one" in err


def test_json_is_one_object_alone(capsys, ratings):
    code, out, _ = run(capsys, "fit", ratings, *FAST, "--json", "--seed", 5, "--full-ranking")
    (line,) = out
    report = json.loads(line)
    assert code == 0
    assert set(report) == {
        "metrics",
        "errors",
        "popularity",
        "protocol",
        "config",
        "plan",
        "data",
        "seconds",
        "training_log",
    }
    assert set(report["metrics"]) == {"hr@10", "ndcg@10", "mrr", "full/hr@10", "full/ndcg@10", "full/mrr"}
    assert report["config"] | {"dim": 4, "epochs": 2, "seed": 5} == report["config"]
    assert report["data"] == {
        "users": 60,
        "items": 40,
        "interactions": 1020,
        "num_rows": 1025,
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
    expected = fastncf.load(model).recommend([4, 7], k=3)
    _, table, _ = run(capsys, "recommend", model, "--user", 4, "--user", 7, "-k", 3)
    assert table[0].split("\t") == ["user", "item", "score", "rank"]
    assert [int(line.split("\t")[1]) for line in table[1:]] == expected["item"].to_list()
    (line,) = out
    assert json.loads(line)["recommendations"] == expected.to_dicts()


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A saved model whose users and items are numbers."""
    folder = tmp_path_factory.mktemp("numbered")
    fastncf.fit(checkerboard(), dim=4, epochs=1, l2=0.001).save(folder / "model")
    return folder / "model"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("or unknown='skip'", "or --unknown skip"),
        ("time_format='%d.%m.%Y %H:%M'; drop_missing=True", "--time-format '%d.%m.%Y %H:%M'; --drop-missing"),
        ("name it with time=..., or split='random'", "name it with --time ..., or split='random'"),
        ("k=-1: expected", "--k -1: expected"),
        ("update: k=(5, 10): expected", "update: --k 5,10: expected"),
        ("no column 'a' for time=; ?time=5 and xk=3 and --k=3", "no column 'a' for --time; ?time=5 and xk=3 and --k=3"),
        ("expected time= beside it", "expected --time beside it"),
        ('for sgd with unknown="skip"', "for sgd with --unknown skip"),
        ("time=None holds nothing out, or drop_missing=False", "--time none holds nothing out, or --no-drop-missing"),
        (
            "k=False: expected no time_format, k or 'time_format'",
            "k=False: expected no --time-format, k or 'time_format'",
        ),
        ("a model before refit()", "a model before --refit"),
        (
            "num_k=0: expected Feather, a polars or a pandas frame: pass the frame that polars.read_csv(URL) makes",
            "--k 0: expected Feather: write the frame that polars.read_csv(URL) makes to a Parquet file",
        ),
    ],
)
def test_settings_are_named_as_options(message, expected):
    options = {"--unknown", "--time-format", "--drop-missing", "--no-drop-missing", "--time", "--k"}
    assert as_options(message, options) == expected


def test_recommend_from_files_of_ids(capsys, numbered, tmp_path):
    rec = fastncf.load(numbered)
    (tmp_path / "users").write_text("4\n7\n\n999\n4\n", encoding="utf-8")
    (tmp_path / "items.csv").write_text("movieId,title\n3,a\n9,b\n11,c\n2,d\n777,e\n", encoding="utf-8")
    (tmp_path / "exclude.tsv").write_text("4\t9\n7\t3\n", encoding="utf-8")
    (tmp_path / "never").write_text("3\n", encoding="utf-8")
    files = "--users", tmp_path / "users", "--items", tmp_path / "items.csv", "--exclude", tmp_path / "exclude.tsv"
    code, out, err = run(capsys, "recommend", numbered, *files, "--unknown", "popular", "--json", "--include-seen")
    assert code == 0
    assert f"{tmp_path / 'users'}: 1 of 3 users is not in the training data and gets popular items" in err
    assert f"{tmp_path / 'items.csv'}: 1 of 5 items is not in the training data and is ignored" in err
    pairs = pl.DataFrame({"user": [4, 7], "item": [9, 3]})
    expected = rec.recommend([4, 7, 999], items=[3, 9, 11, 2], exclude=pairs, unknown="popular", exclude_seen=False)
    assert json.loads(out[-1])["recommendations"] == expected.to_dicts()
    code, out, err = run(
        capsys, "recommend", numbered, "--users", tmp_path / "users", "--unknown=skip", "--exclude", tmp_path / "never"
    )
    assert "1 of 3 users is not in the training data and is skipped" in err
    assert len(out) == 1 + rec.recommend([4, 7], exclude=[3]).height
    code, _, err = run(capsys, "recommend", numbered, "--users", tmp_path / "users")
    assert code == 3
    assert "user 999 is not in the training data" in err
    assert err.endswith("expected one of them, or --unknown skip or --unknown popular\n")


@pytest.mark.parametrize("name", ["recs.parquet", "recs.csv"])
def test_recommend_to_all_users_in_a_file(capsys, numbered, tmp_path, name):
    path = tmp_path / name
    code, out, _ = run(capsys, "recommend", numbered, "--all-users", "--k", 3, "--out", path, "--json")
    assert code == 0
    assert list(map(json.loads, out)) == [{"out": str(path)}]
    _, out, _ = run(capsys, "recommend", numbered, "--all-users", "--k", 3, "-o", path)
    assert out == [str(path)]
    found = (pl.read_parquet if name.endswith("parquet") else pl.read_csv)(path)
    expected = fastncf.load(numbered).recommend(k=3)
    assert found.select("user", "item", "rank").rows() == expected.select("user", "item", "rank").rows()
    code, out, _ = run(capsys, "recommend", numbered, "--all-users", "--k", 3)
    assert len(out) == 1 + expected.height


def test_every_setting_is_a_flag(capsys):
    code, out, _ = run(capsys, "fit", "--help")
    text = "\n".join(out)
    assert code == 0
    for name in fastncf.Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    for flag in ("--test", "--candidates", "--out", "--json", "--notebook", "--user", "--item", "--time"):
        assert flag in text


@pytest.mark.parametrize("command", [[], *([name] for name in USAGE)])
def test_help_has_no_markup_and_no_flag_without_a_meaning(capsys, command):
    code, out, _ = run(capsys, *command, "--help")
    text = " ".join(out)
    assert code == 0
    assert not re.search(r"``|:\w+:`|~fastncf|--empty-", text)


def test_notebook_fills_the_flags_that_were_not_given(capsys, ratings):
    _, out, _ = run(capsys, "fit", ratings, "--json", "--notebook", "--epochs", 1, "--batch-size", 16384)
    config = json.loads(out[-1])["config"]
    notebook = fastncf.Config.notebook(epochs=1, batch_size=16384)
    assert fastncf.Config.from_dict(config) == notebook


def test_settings_reach_the_fit(capsys, ratings):
    flags = ["--layers", "8, 6", "--layers", "4", "--model", "neumf", "--loss", "bpr", "--no-shuffle", "--validation"]
    flags += ["--k", "5,20,10", "--metrics", "hr,mrr"]
    _, out, _ = run(capsys, "fit", ratings, *FAST, *flags, "--json")
    config = json.loads(out[-1])["config"]
    assert config["layers"] == [8, 6, 4]
    assert (config["k"], config["metrics"]) == ([5, 10, 20], ["hr", "mrr"])
    assert (config["model"], config["loss"], config["shuffle"], config["validation"]) == ("neumf", "bpr", False, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fit", "nowhere.csv"], 3, "nowhere.csv: no such file"),
        (["fit", "{ratings}", "--user", "nobody"], 3, "has no column 'nobody' for --user"),
        (["fit", "{ratings}", "--dim", "0"], 2, "--dim 0: expected an integer of at least 1"),
        (["fit", "{ratings}", "--dim", "x"], 2, "--dim"),
        (["fit", "{ratings}", "--nonsense"], 2, "--nonsense"),
        (["fit", "{ratings}", "--dim", "3.5"], 2, "--dim 3.5: expected an integer"),
        (["fit", "{ratings}", "--layers", "8.5"], 2, "--layers 8.5: expected an integer"),
        (["fit", "{ratings}", "--dim", "\x1b[31m[red]"], 2, "--dim '\\x1b[31m[red]': expected an integer"),
        (["fit", "{ratings}", "--learning-rate", "abc"], 2, "--learning-rate 'abc': expected a number"),
        (["fit", "{ratings}", "--layers", "a"], 2, "--layers 'a': expected an integer"),
        (["recommend", "m", "--user", "1", "--k", "ten"], 2, "--k 'ten': expected an integer"),
        (["recommend", "m", "--user", "1", "--k", "5,10"], 2, "--k '5,10': expected an integer"),
        (["fit", "{ratings}", "--layers", "16,a"], 2, "--layers 'a': expected an integer, or several separated by co"),
        (["fit", "{ratings}", "--layers", "16,0"], 2, "--layers 16,0: expected integers of at least 1"),
        (["evaluate", "m", "--k", "5,,10"], 2, "--k '5,,10': expected an integer, or several separated by commas"),
        (["fit", "{ratings}", "--k", "5,a"], 2, "--k '5,a': expected an integer, or several separated by commas"),
        (["fit", "{ratings}", "--holdout", "all"], 2, "--holdout 'all': expected a number or one of none, one"),
        (["fit", "{ratings}", "--dim", "1", "--dim", "2"], 2, "--dim: is given more than once; expected it once"),
        (["fit", "{ratings}", "--empty-layers"], 2, "Unknown option: --empty-layers."),
        (["recommend", "m", "--empty-user"], 2, "Unknown option: --empty-user."),
        (["fit", "https://example.org/ratings.csv"], 3, "https://example.org/ratings.csv: is a URL; expected "),
        (
            ["recommend", "m", "--users", "s3://bucket/ids.parquet"],
            3,
            "write the frame that polars.read_parquet(URL) makes to a Parquet file",
        ),
        (["train", "{ratings}"], 2, "'train' is no command; did you mean fit? expected one of fit, plan"),
        (["recomend", "m"], 2, "'recomend' is no command; did you mean recommend?"),
        (["fit"], 2, "fit needs a ratings file: fastncf fit RATINGS"),
        (["evaluate"], 2, "evaluate needs the folder of a saved model: fastncf evaluate MODEL"),
        (
            ["recommend", "m"],
            2,
            "recommend needs users, in one of four ways: fastncf recommend MODEL --user ID, --users",
        ),
        (["recommend", "m", "--user", "1", "--all-users"], 2, "recommend needs users, in one of four ways"),
        (["recommend", "m", "--user", "1", "--out", "x.txt"], 2, "whose name ends in .parquet or .csv"),
        (["recommend", "m", "--users", "nowhere.csv"], 3, "nowhere.csv: no such file"),
        (["recommend", "m", "--user", "1", "--items", "5,6"], 3, "5,6: no such file; expected the path of a file"),
        (["recommend", "m", "--user", "1", "--exclude", "nowhere.csv"], 3, "nowhere.csv: no such file"),
        (["fit", "{ratings}", "--holdout", "0"], 2, "--holdout 0: expected one, none"),
        (["report", "m", "--out", "page.pdf"], 2, "report: 'page.pdf': expected the path of a file whose name ends"),
        (["fit", "{ratings}", "--metrics", "hr@5"], 2, "'hr@5' is unknown; expected 'hr', and the cutoff by --k 5"),
        (["similar", "m"], 2, "similar needs items or users: fastncf similar MODEL --item ID or --user ID"),
        (["update", "m"], 2, "update needs a file of new interactions: fastncf update MODEL ROWS --out FOLDER"),
        (["info", "nowhere"], 3, "holds no fastncf model"),
        (["fit", "{ratings}", "--config", "nowhere.toml"], 3, "nowhere.toml: no such file"),
        (["fit", "{ratings}", "--config", "{ratings}"], 2, "ratings.csv: is no TOML ("),
        (["generate"], 2, "generate needs the name of a file to write: fastncf generate PATH"),
        (
            ["recommend", "m", "--user", "-a"],
            2,
            "--user needs a value; one that starts with a dash is given as --user=",
        ),
        (["fit", "a", "b\n"], 2, "unexpected argument 'b\\n'; expected: fastncf fit RATINGS"),
        (["--json", "fit"], 2, "--json: expected a command before it, one of fit, plan"),
        (["fit", "\x1b[31m\u202e"], 3, "\\x1b[31m\\u202e: no such file"),
        (["fit", "\udcff.csv"], 3, "\\udcff.csv: no such file"),
        (["fit", "a\0b"], 2, "has a NUL character"),
        (["evaluate", "x" * 300], 3, "File name too long"),
        (["fit", "{ratings}", "--device", "cuda:99"], 4, "is not available here"),
        (["fit", "{ratings}", "--device", "meta"], 4, "; expected"),
        (["evaluate", "nowhere"], 3, "holds no fastncf model"),
        (["recommend", "nowhere", "--user", "1"], 3, "holds no fastncf model"),
        (["generate", "x.csv", "--users", "0"], 2, "--users 0, --items 26744: expected integers of at least 1"),
        (["generate", "nowhere/x.csv"], 3, "its folder does not exist"),
        (["nonsense"], 2, "'nonsense' is no command; expected one of fit, plan"),
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


def test_outputs_that_take_each_others_place_are_refused_before_anything_is_written(capsys, ratings, tmp_path):
    (tmp_path / "link").symlink_to("a")
    for command, message in (
        (["fit", "--out", "a", "--checkpoint", "a"], "--checkpoint a: is the same place as --out a"),
        (["fit", "--out", "link", "--checkpoint", "a/b"], "--checkpoint a/b: is in the folder of --out link"),
        (["tune", "--minutes", 1, "--study", "a", "--out", "./a"], "--study a: is the same place as --out a"),
        (["tune", "--minutes", 1, "--picture", "a", "--study", "a"], "--picture a: is the same place as --study a"),
    ):
        words = [tmp_path / word if word in ("a", "a/b", "./a", "link") else word for word in command]
        code, _, err = run(capsys, words[0], ratings, *words[1:])
        assert code == 2
        assert err.replace(f"{tmp_path}/", "") == f"fastncf: {message}; expected another one\n"
        assert not (tmp_path / "a").exists()
    assert run(capsys, "fit", ratings, *FAST, "--checkpoint", tmp_path / "a", "--out", tmp_path / "a" / "b")[0] == 0
    code, _, err = run(capsys, "fit", ratings, *FAST, "--checkpoint", tmp_path / "a")
    assert code == 3
    assert err.endswith("holds the checkpoint of a fit; expected --resume to go on with it, or another folder\n")


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
    with progress.progress_shown() as callback:
        assert callback is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.progress_shown() as bar:
        assert isinstance(bar, progress._Bar)
    told = []
    fastncf.fit(ratings, epochs=1, dim=4, validation=True, callback=lambda news: told.append(bar(news)))
    (task,) = bar.progress.tasks
    assert (task.completed, task.total) == (1, 1)
    assert "M samples/s" in task.fields["status"]
    assert "hr@10" in task.fields["status"]


ODD = '\x1b[31m[red]\t\r\n\\ \u4e2d\u202e"'
"""Text that is added to ids: an escape sequence, markup of rich, separators, letters and a change of direction."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a fitted model with odd ids of users and items."""
    odd = checkerboard().select(
        *(pl.format("{}{}", pl.col(name), pl.lit(ODD)).alias(name) for name in ("user", "item")), "time"
    )
    folder = tmp_path_factory.mktemp("saved") / "model"
    fastncf.fit(odd, dim=4, epochs=1, l2=0.0).save(folder)
    return folder


@pytest.fixture
def fitted(saved, monkeypatch):
    """A recommender that ``fit`` returns at once."""
    recommender = fastncf.load(saved)
    monkeypatch.setattr("fastncf.train.fit", lambda *args, **kwargs: recommender)
    return recommender


def failing_save(monkeypatch, is_wrong, error) -> None:
    """Let saving fail for the folders for which ``is_wrong`` holds."""
    save = fastncf.Recommender.save

    def fail(recommender, directory) -> None:
        if is_wrong(directory):
            raise error
        save(recommender, directory)

    monkeypatch.setattr(fastncf.Recommender, "save", fail)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        fastncf.DataError("a\x1b: cannot be written"),
        MemoryError("x" * 900),
        RuntimeError("the library broke"),
    ],
)
def test_a_model_that_cannot_be_saved_is_kept_elsewhere(capsys, tmp_path, monkeypatch, fitted, error):
    out, elsewhere = tmp_path / "model", tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    failing_save(monkeypatch, lambda folder: folder == out, error)
    code, lines, err = run(capsys, "fit", "r.csv", "--out", out, "--json")
    assert code == 1
    assert [json.loads(line)["metrics"] for line in lines] == [fitted.metrics]
    (folder,) = elsewhere.iterdir()
    last = err.splitlines()[-1]
    assert last.startswith(f"fastncf: {str(error)[:10]}".replace("\x1b", "\\x1b"))
    assert last.endswith(f"; the model was saved to {folder} instead")
    assert len(last) < 520
    assert folder.name.startswith("fastncf-model-")
    assert fastncf.load(folder).metrics == fitted.metrics


def test_a_model_that_can_be_saved_nowhere(capsys, tmp_path, monkeypatch, fitted):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failing_save(monkeypatch, lambda _: True, OSError(28, "No space left on device"))
    code, lines, err = run(capsys, "fit", "r.csv", "--out", tmp_path / "model")
    assert code == 1
    assert lines[0].startswith("HR@10")
    assert "; the model is lost, since it cannot be saved elsewhere either (" in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (BrokenPipeError(), 141, "stage"),
        (OSError(28, "No space left on device"), 1, "fastncf: standard output: cannot be written (No space left"),
    ],
)
def test_a_model_is_saved_where_its_results_cannot_be_printed(capsys, tmp_path, monkeypatch, fitted, error, code, last):
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise error

    monkeypatch.setattr("sys.stdout", Broken())
    with pytest.raises(SystemExit) as exit_:
        cli.main(["fit", "r.csv", "--out", str(tmp_path / "model"), "--json"])
    assert exit_.value.code == code
    assert fastncf.load(tmp_path / "model").metrics == fitted.metrics
    err = capsys.readouterr().err
    assert last in err
    assert ("fastncf: " in err) == (code == 1)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted while the model was saved to {out}"),
        (Terminated(signal.SIGTERM), 143, "terminated by SIGTERM"),
    ],
)
def test_an_interruption_while_a_model_is_saved(capsys, tmp_path, monkeypatch, fitted, error, code, message):
    out = tmp_path / "model"
    failing_save(monkeypatch, lambda _: True, error)
    got, lines, err = run(capsys, "fit", "r.csv", "--out", out)
    assert got == code
    assert lines[0].startswith("HR@10")
    assert err.splitlines()[-1] == f"fastncf: {message.format(out=out)}"
    got, _, err = run(capsys, "fit", "r.csv", "--out", out, "--checkpoint", "c")
    end = "c: the fit is finished; the same fit with --resume saves its model"
    assert (got, err.splitlines()[-1]) == (code, f"fastncf: {message.format(out=out)}; {end}")


def test_a_model_without_a_folder_is_not_saved_and_that_is_said(capsys, fitted):
    _, _, err = run(capsys, "fit", "r.csv")
    assert err.splitlines()[-1] == "not saved: give --out to keep the model"


def test_the_table_of_recommendations_has_one_line_and_four_fields_for_each(capsys, saved):
    code, out, _ = run(capsys, "recommend", saved, "--user", f"4{ODD}", "--k", 3)
    assert code == 0
    rows = [line.split("\t") for line in out[1:]]
    assert [len(row) for row in rows] == [4, 4, 4]
    escaped = r"\x1b[31m[red]\t\r\n\\ 中\u202e" + '"'
    assert {row[0] for row in rows} == {f"4{escaped}"}
    _, (line,), _ = run(capsys, "recommend", saved, "--user", f"4{ODD}", "--k", 3, "--json")
    given = json.loads(line)["recommendations"]
    assert {row["user"] for row in given} == {f"4{ODD}"}
    assert [row[1] for row in rows] == [row["item"].replace(ODD, escaped) for row in given]
    assert line.isascii()


def test_ids_in_an_encoding_without_their_letters(monkeypatch, saved):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["recommend", str(saved), "--user", f"4{ODD}", "--k", "1"])
    assert exit_.value.code == 0
    assert rb" \u4e2d\u202e" in raw.getvalue()


def test_an_id_that_the_locale_did_not_decode_is_utf8(capsys, saved):
    undecoded = f"4{ODD}".encode().decode("ascii", "surrogateescape")
    code, out, _ = run(capsys, "recommend", saved, "--user", undecoded, "--k", 1)
    assert (code, len(out)) == (0, 2)


@pytest.mark.parametrize(
    "command",
    [
        "fit {}",
        "fit r.csv --test={}",
        "fit r.csv --test r.csv --candidates={}",
        "fit r.csv --out={}",
        "plan {}",
        "plan r.csv --test={}",
        "evaluate {}",
        "recommend {} --user 1",
        "recommend m --users={}",
        "recommend m --user 1 --items={}",
        "recommend m --user 1 --exclude={}",
        "generate {}",
    ],
)
def test_every_path(capsys, tmp_path, monkeypatch, command):
    """A ``~`` is the home directory, and an empty path is refused."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    checkerboard().write_csv(tmp_path / "r.csv")
    code, _, err = run(capsys, *command.format("~/file/x").split())
    assert code in (1, 3)
    assert err.splitlines()[-1].startswith(f"fastncf: {tmp_path}/file/x")
    code, _, err = run(capsys, *(word.format("") for word in command.split()))
    assert code == 2
    assert "the path is empty" in err


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--lr", "--learning-rate"),
        ("--bs=512", "--batch-size"),
        ("--learning", "--learning-rate"),
        ("--epoch", "--epochs"),
        ("--num-epochs", "--epochs"),
        ("--embedding-dim", "--dim"),
        ("--weight-decay", "--l2"),
        ("--output", "--out"),
        ("-k", "--k"),
        ("--topk", "--k"),
        ("--random-state", "--seed"),
        ("--no-shufle", "--no-shuffle"),
        ("--sead", "--seed"),
    ],
)
def test_an_unknown_option_names_the_one_that_is_meant(capsys, option, meant):
    _, _, err = run(capsys, "fit", "r.csv", option, 3)
    assert err == f"fastncf: Unknown option: {option.partition('=')[0]}. Did you mean {meant}?\n"


class Panic(BaseException):
    """An exception that is no Exception, as Polars raises one."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyError("a\x1b[31m"), 1, "internal error: KeyError: 'a\\x1b[31m'; run again with --debug for the traceback"),
        (RecursionError("maximum recursion depth"), 1, "internal error: RecursionError: maximum recursion depth; run"),
        (Panic("index out of bounds\n" * 90), 1, "internal error: Panic: index out of bounds\\nindex"),
        (OSError(5, "Input/output error", "a\nb"), 1, "a\\nb: Input/output error"),
        (OSError("no number"), 1, "internal error: OSError: no number"),
        (MemoryError(), 4, "plan: the memory does not suffice, and "),
        (fastncf.FastNCFError("x"), 1, "x"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(signal.SIGTERM), 143, "terminated by SIGTERM"),
        (Terminated(signal.SIGHUP), 129, "terminated by SIGHUP"),
    ],
)
def test_whatever_is_raised_is_one_line(capsys, monkeypatch, error, code, message):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fastncf.train.plan_fit", fail)
    got, out, err = run(capsys, "plan", "r.csv")
    assert (got, out) == (code, [])
    assert err.startswith(f"fastncf: {message}")
    assert err.count("\n") == 1
    assert len(err) < 520
    if code in (1, 4):
        with pytest.raises(type(error)):
            cli.main(["plan", "r.csv", "--debug"])


def test_json_has_no_numbers_that_are_not_finite(capsys):
    print_json({"a": [math.nan, (math.inf, 1.5)], "b": {"c": -math.inf, "d": "NaN", "e": 2}})
    assert capsys.readouterr().out == '{"a": [null, [null, 1.5]], "b": {"c": null, "d": "NaN", "e": 2}}\n'


def test_a_warning_is_one_line(capsys, monkeypatch):
    def warn(*_: object, **__: object) -> None:
        warnings.warn("patience=3 has no effect", UserWarning, stacklevel=2)
        raise fastncf.DataError("r.csv: is empty")

    monkeypatch.setattr("fastncf.train.plan_fit", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _, _, err = run(capsys, "plan", "r.csv")
    assert err == "fastncf: warning: --patience 3 has no effect\nfastncf: r.csv: is empty\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["fit", "--help"], ["recommend", "--help"]])
def test_help_names_the_exit_codes_on_the_narrowest_terminal(capsys, monkeypatch, arguments):
    monkeypatch.setenv("COLUMNS", "1")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "Exit codes: 0 fine" in " ".join(out)


def test_a_command_line_in_another_thread_and_again(capsys, saved):
    codes = []

    def work() -> None:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["evaluate", str(saved)])
        codes.append(exit_.value.code)

    streams = sys.stdout, sys.stderr
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    work()
    assert codes == [0, 0]
    assert (sys.stdout, sys.stderr) == streams


def test_a_plan_is_printed_without_escapes_of_terminals(fitted):
    module = type("Model\x1b[31m", (torch.nn.Linear,), {})(2, 2)
    planned = make_plan(fastncf.Config(), fitted.plan.data, module)
    assert "Model\\x1b[31m" in str(planned)
    assert "\x1b" not in str(planned)


def test_columns_and_paths_reach_no_terminal_as_they_are(capsys, tmp_path):
    path = tmp_path / "r\x1b[31m\u202e.csv"
    checkerboard().rename({"user": "u\x1b[2J", "item": "i\x9b2J"}).write_csv(path)
    code, _, err = run(capsys, "fit", path, *FAST, "--l2", 0, "--user", "u\x1b[2J", "--item", "i\x9b2J")
    assert code == 0
    assert r"r\x1b[31m\u202e.csv: text" in err
    assert r"user = u\x1b[2J, item = i\x9b2J" in err
    code, _, err = run(capsys, "fit", path, *FAST)
    assert (code, err.count("\n")) == (3, 1)
    assert r"\x1b[2J" in err
    assert not {"\x1b", "\x9b", "\u202e"} & set(err)


def test_similar_and_info_say_what_python_says(capsys, numbered):
    rec = fastncf.load(numbered)
    expected = rec.similar_items([3, 9], 4)
    _, out, _ = run(capsys, "similar", numbered, "--item", 3, "--item", 9, "-k", 4)
    assert out[0].split("\t") == expected.columns
    assert [int(line.split("\t")[1]) for line in out[1:]] == expected["similar_item"].to_list()
    _, out, _ = run(capsys, "similar", numbered, "--item", 3, "--item", 9, "-k", 4, "--json")
    assert list(map(json.loads, out)) == [{"similar": expected.to_dicts()}]
    _, out, _ = run(capsys, "info", numbered)
    assert f"protocol: {rec.protocol}" in out
    assert any(line.startswith(f"versions: format {FORMAT} ") and fastncf.__version__ in line for line in out)
    _, (line,), _ = run(capsys, "info", numbered, "--json")
    assert json.loads(line)["plan"] == rec.plan.to_dict()
    assert json.loads(line)["versions"]["fastncf"] == fastncf.__version__


def test_update_saves_what_python_gives(capsys, numbered, tmp_path):
    rows = pl.DataFrame({"user": [1, 777, 777], "item": [5, 7, 9], "time": [10**9, 10**9, 10**9 + 1]})
    rows.write_csv(tmp_path / "new.csv")
    code, out, _ = run(capsys, "update", numbered, tmp_path / "new.csv", "-o", tmp_path / "updated")
    assert (code, out[-1]) == (0, f"saved to {tmp_path / 'updated'}")
    expected = fastncf.load(numbered).update(rows).recommend([1, 777], k=5)
    assert fastncf.load(tmp_path / "updated").recommend([1, 777], k=5).equals(expected)
    with (tmp_path / "bad.csv").open("w") as file:
        file.write("user,item,time\n1,999999,5\n")
    code, out, err = run(capsys, "update", numbered, tmp_path / "bad.csv", "--out", tmp_path / "other")
    assert (code, out) == (3, [])
    assert "999999" in err
    assert not (tmp_path / "other").exists()


def test_recommend_by_a_history(capsys, numbered, tmp_path):
    rec = fastncf.load(numbered)
    expected = rec.recommend(history=[5, 7, 9], k=4)
    _, (line,), _ = run(capsys, "recommend", numbered, "--history", "5, 7,9", "-k", 4, "--json")
    assert json.loads(line)["recommendations"] == expected.to_dicts()
    rows = pl.DataFrame({"user": [1, 1, 2], "item": [5, 7, 9]})
    rows.write_csv(tmp_path / "new.csv")
    _, (line,), _ = run(capsys, "recommend", numbered, "--history", tmp_path / "new.csv", "--json")
    assert json.loads(line)["recommendations"] == rec.recommend(history=rows).to_dicts()
    for wrong, code, message in (
        ("nowhere.csv", 3, "nowhere.csv: no such file; expected item ids or the path of a file"),
        ("5,99999", 3, "99999"),
        ("", 3, "history: holds no item"),
        ("5,,7", 3, "item ids are integers or text; got '' in position 2 of 3; expected an id, or"),
    ):
        found, _, err = run(capsys, "recommend", numbered, "--history", wrong)
        assert found == code
        assert message in err


@pytest.mark.parametrize("how", ["pipe", "file"])
def test_standard_input_is_read_where_a_file_is(numbered, tmp_path, how):
    (tmp_path / "users").write_text("4\n7\n", encoding="utf-8")
    words = [sys.executable, "-m", "fastncf", "recommend", str(numbered), "--users", "-", "--json"]
    with (tmp_path / "users").open() as file:
        given = {"input": "4\n7\n"} if how == "pipe" else {"stdin": file}
        found = subprocess.run(words, capture_output=True, text=True, check=True, **given)
    assert json.loads(found.stdout)["recommendations"] == fastncf.load(numbered).recommend([4, 7]).to_dicts()


def test_a_dash_is_standard_input_only_where_a_file_is_read():
    assert cli._with_stdin(["fit", "-", "--seed", "1"]) == ["fit", "/dev/stdin", "--seed", "1"]
    assert cli._with_stdin(["fit", "r", "--test", "-"]) == ["fit", "r", "--test", "/dev/stdin"]
    assert cli._with_stdin(["recommend", "m", "--users=-"]) == ["recommend", "m", "--users=/dev/stdin"]
    for words in (["fit", "r", "--out", "-"], ["recommend", "m", "--user", "-"], ["-"], ["fit", "--dim", "-"]):
        assert cli._with_stdin(words) == words
    assert cli._with_stdin(["recommend", "m", "--user=-"]) == ["recommend", "m", "--user=-"]


def test_standard_input_is_one_file(capsys, numbered):
    for words in (("fit", "-", "--test", "-"), ("recommend", numbered, "--users", "-", "--items=-")):
        code, _, err = run(capsys, *words)
        assert code == 2
        assert "-: the standard input stands for 2 files; expected one of them" in err


def test_quiet_leaves_the_result_and_errors(capsys, ratings, tmp_path):
    for flag in ("--quiet", "-q"):
        code, out, err = run(capsys, "fit", ratings, *FAST, flag, "--layers", 8)
        assert (code, err) == (0, "")
        assert out[0].startswith("HR@10")
    code, _, err = run(capsys, "fit", tmp_path / "nowhere.csv", "-q")
    assert code == 3
    assert err == f"fastncf: {tmp_path / 'nowhere.csv'}: no such file\n"


def test_verbose_shows_the_log_of_the_package(capsys, ratings):
    before = logging.getLogger("fastncf").handlers[:]
    _, _, err = run(capsys, "fit", ratings, *FAST, "-v")
    for line in ("fastncf: read begins", "fastncf: epoch 2 of 2: loss "):
        assert line in err
    _, _, err = run(capsys, "fit", ratings, *FAST)
    assert "epoch 2 of 2" not in err
    assert logging.getLogger("fastncf").handlers == before


def test_settings_of_a_toml_file(capsys, ratings, tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text("epochs = 1\nlearning_rate = 0.02\nlayers = [8, 4]\nshuffle = false\n", encoding="utf-8")
    _, (line,), _ = run(capsys, "fit", ratings, "--config", path, "--dim", 4, "--epochs", 2, "--json", "-q")
    expected = fastncf.Config(epochs=2, dim=4, learning_rate=0.02, layers=(8, 4), shuffle=False)
    assert fastncf.Config.from_dict(json.loads(line)["config"]) == expected
    for text, message in (
        ("lr = 0.1", "unknown setting: lr; did you mean learning_rate?"),
        ("epochs = 2.5", "epochs=2.5: expected an integer of at least 1"),
        ('epochs = "2"', "epochs='2': expected an integer of at least 1"),
        ("[fit]\nepochs = 2", "unknown setting: fit; "),
        ("test = 'x.csv'", "test is no setting; expected it on the command line, as --test"),
        ("epochs", "is no TOML ("),
        ("batch-size = 3\nbatch_size = 4", "batch_size: is given in two spellings; expected it once"),
    ):
        path.write_text(text, encoding="utf-8")
        for command in ("fit", "plan"):
            code, out, err = run(capsys, command, ratings, "--config", path)
            assert (code, out) == (2, [])
            assert err.startswith(f"fastncf: {path}: {message}")
    code, _, err = run(capsys, "fit", ratings, "--config", tmp_path)
    assert (code, err) == (3, f"fastncf: {tmp_path}: cannot be read (Is a directory)\n")
