"""The command line by several processes."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastncf
from fastncf.data.synthetic import synthetic_movielens
from tests.distributed.launching import Rank

SETTINGS = ["--epochs", "2", "--dim", "16", "--num-negatives", "64", "--loss", "softmax", "--history", "sequence"]


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """Return a file of ratings."""
    path = tmp_path_factory.mktemp("data") / "ratings.csv"
    synthetic_movielens(num_users=200, num_items=100, num_interactions=6_000, seed=1).collect().write_csv(path)
    shutil.copy(path, f"{path}2")
    return path


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def start(*commands: list[str]) -> list[Rank]:
    """Start a rank for each command line, as a launcher does."""
    shared = {"FASTNCF_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    shared |= {
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(len(commands)),
        "LOCAL_WORLD_SIZE": str(len(commands)),
    }
    return [
        Rank(command, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank, command in enumerate(commands)
    ]


def finish(ranks: list[Rank]) -> list[tuple[int, str, str]]:
    """Return exit codes, results and notes of all ranks."""
    return [rank.finish() for rank in ranks]


def test_ranks_fit_what_one_process_fits_and_one_goes_on(tmp_path, ratings):
    model, kept = tmp_path / "model", tmp_path / "kept"
    command = ["fit", str(ratings), "--out", str(model), "--checkpoint", str(kept), "--quiet", *SETTINGS]
    first, second = finish(start(command, command))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert "HR@10" in first[1]
    assert second[1:] == ("", "")
    settings = {"dim": 16, "num_negatives": 64, "loss": "softmax", "history": "sequence", "progress": False}
    alone = fastncf.fit(ratings, epochs=2, checkpoint=tmp_path / "alone", **settings)
    assert_alike(fastncf.load(model), alone, "next_item")
    resumed = []
    for folder in (kept, tmp_path / "alone"):
        with pytest.warns(UserWarning, match="goes on to 3 epochs in place of 2"):
            resumed.append(fastncf.fit(ratings, epochs=3, checkpoint=folder, resume=True, **settings))
    assert_alike(*resumed, "next_item")


@pytest.mark.parametrize(
    ("settings", "trainer"),
    [
        ({"model": "mlp", "budget": "fast", "dim": 8, "layers": "8"}, "cpu_mlp"),  # starts from an mf by sgd
        ({"split": "random", "budget": "fast", "dim": 8, "patience": 1, "validation": True}, "other_items"),
    ],
)
def test_models_of_several_stages_and_of_sets(tmp_path, ratings, settings, trainer):
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value)) if word != "True"]
    kept, model = tmp_path / "kept", tmp_path / "model"
    command = ["fit", str(ratings), "--out", str(model), "--checkpoint", str(kept), "--quiet", *words]
    results = finish(start(command, command))
    assert [code for code, _, _ in results] == [0, 0], results
    if "layers" in settings:
        settings = settings | {"layers": (8,)}
    together, alone = fastncf.load(model), fastncf.fit(ratings, progress=False, **settings)
    assert_alike(together, alone, trainer)
    if trainer == "cpu_mlp":
        assert together.recommend().equals(alone.recommend())
    more = finish(start(*[[*command, "--resume"]] * 3))
    assert [code for code, _, _ in more] == [0] * 3, more


def test_there_may_be_more_ranks_than_users(tmp_path):
    path, model = tmp_path / "few.csv", tmp_path / "model"
    path.write_text("user,item,time\n1,1,1\n1,2,2\n1,3,3\n2,3,1\n2,4,2\n")
    settings = {"model": "gmf", "loss": "bce", "optimizer": "adam", "dim": 4, "epochs": 2}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    results = finish(start(*[["fit", str(path), "--out", str(model), "--quiet", *words]] * 3))
    assert [code for code, _, _ in results] == [0] * 3, results
    alone = fastncf.fit(path, progress=False, **settings)
    ranked, expected = (one.recommend([1, 2], 1)["score"].to_list() for one in (fastncf.load(model), alone))
    assert ranked == pytest.approx(expected, abs=1e-5)
    assert fastncf.load(model).metrics == alone.metrics


def assert_alike(recommender: fastncf.Recommender, other: fastncf.Recommender, trainer: str) -> None:
    """Check that two models were trained by the stages of one plan, and agree to the rounding of float32."""
    assert recommender.plan.final.trainer == trainer
    assert recommender.plan.stages == other.plan.stages
    assert recommender.metrics == pytest.approx(other.metrics, abs=1e-3)
    best = other.recommend(1)
    assert np.allclose(recommender.score([1] * len(best), best["item"])["score"], best["score"], atol=1e-3)


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ([["fit", "{}"], ["fit", "{}", "--dim", "8"]], "ranks 0 and 1 have different settings (dim: None and 8)"),
        (
            [["fit", "{}"], ["fit", "{}", "--checkpoint", "{}.kept"]],
            "ranks 0 and 1 have different checkpoints (None and",
        ),
        ([["fit", "{}"], ["fit", "{}2"]], "ranks 0 and 1 have different files"),
        ([["fit", "missing.csv"]] * 2, "missing.csv: no such file"),
        ([["info", "model"]] * 2, "info: runs in a single process"),
    ],
)
def test_what_goes_wrong_is_said_once(ratings, commands, message):
    results = finish(start(*[[word.format(ratings) for word in command] for command in commands]))
    assert all(code > 0 for code, _, _ in results)
    notes = [line for _, _, notes in results for line in notes.splitlines() if line.startswith("fastncf: ")]
    assert len(notes) == 1
    assert message in notes[0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the ranks in /proc")
def test_torchrun_starts_killed_ranks_anew_from_the_checkpoint(tmp_path, ratings):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    words += ["-m", "fastncf", "fit", str(ratings), "--out", str(tmp_path / "model"), "--verbose", "--resume"]
    words += ["--checkpoint", str(tmp_path / "kept"), *SETTINGS[2:], "--epochs", "30"]
    environment = os.environ | {"FASTNCF_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    epochs, notes = [], []
    with subprocess.Popen([sys.executable, *words], env=environment, stderr=subprocess.PIPE, text=True) as launcher:
        for line in launcher.stderr:
            notes.append(line)
            if (found := re.match(r"fastncf: epoch (\d+) of 30", line)) is None:
                continue
            epochs.append(int(found[1]))
            if epochs.count(3) == 1 and epochs[-1] == 3:
                ranks = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text(encoding="ascii").split()
                os.kill(int(ranks[-1]), signal.SIGKILL)
    assert launcher.returncode == 0, notes
    assert 30 in epochs
    assert 1 not in epochs[epochs.index(3) :]
    assert fastncf.load(tmp_path / "model").plan.final.epochs == 30


def test_a_rank_that_dies_ends_the_others(ratings):
    ranks = start(*[["fit", str(ratings), *SETTINGS[2:], "--epochs", "100000", "--verbose"]] * 2)
    for line in ranks[0].stderr:
        if "epoch 1 of" in line:
            break
    ranks[1].kill()
    code, _, notes = finish(ranks)[0]
    assert code == 1
    assert "rank 0 of 2: rank 1 has ended" in notes
    assert notes.rstrip().endswith("the message of that rank, or the report of its launcher, says why")
