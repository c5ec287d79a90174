"""The same fit with several seeds."""

import json

import numpy as np
import pytest
from torch import nn

import fastncf
from fastncf import cli
from fastncf.config import Config
from fastncf.data.readers import table
from fastncf.errors import ConfigError
from fastncf.plan_file import settings_to_repeat
from tests.conftest import checkerboard

SETTINGS = {"epochs": 2, "budget": "fast", "dim": 8}


def test_repetitions_are_fits_with_other_seeds(monkeypatch):
    """The candidates are those of the first seed, which a full ranking does not depend on."""
    num_read = []
    read = table.read_table
    monkeypatch.setattr(
        "fastncf.data.interactions.read_table", lambda *given, **named: (num_read.append(1), read(*given, **named))[1]
    )
    found = fastncf.repeat(checkerboard(), seeds=3, seed=4, full_ranking=True, **SETTINGS)
    assert num_read == [1]
    assert found.seeds == (4, 5, 6)
    for seed, rec in zip(found.seeds, found.recommenders, strict=True):
        alone = fastncf.fit(checkerboard(), seed=seed, full_ranking=True, **SETTINGS)
        assert np.array_equal(alone.trained.item_vectors, rec.trained.item_vectors)
        assert alone.metrics["full/ndcg@10"] == rec.metrics["full/ndcg@10"]
    assert found.recommenders[0].metrics == fastncf.fit(checkerboard(), seed=4, full_ranking=True, **SETTINGS).metrics
    values = [rec.metrics["ndcg@10"] for rec in found.recommenders]
    assert found.metrics["ndcg@10"] == values
    assert found.means()["ndcg@10"] == pytest.approx(np.mean(values))
    assert found.deviations()["ndcg@10"] == pytest.approx(np.std(values, ddof=1))
    assert f"ndcg@10: {np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" in repr(found)
    assert all(rec.split is found.recommenders[0].split for rec in found.recommenders)


def test_each_seed_trains_the_loss_that_its_trials_choose():
    """Whichever loss is chosen: bce is here, in place of the planned softmax. The file of each model makes it again."""
    settings = {"epochs": 1, "dim": 8, "l2": 0.0}
    found = fastncf.repeat(checkerboard(), seeds=[3, 4], **settings)
    vectors = []
    for seed, rec in zip(found.seeds, found.recommenders, strict=True):
        assert (rec.plan.final.loss, rec.plan.final.seed) == ("bce", seed)
        alone = fastncf.fit(checkerboard(), config=Config.from_dict(settings_to_repeat(rec.config, rec.plan)))
        vectors.append(rec.trained.item_vectors)
        assert np.array_equal(alone.trained.item_vectors, vectors[-1])
    assert not np.array_equal(*vectors)
    rec = fastncf.repeat(checkerboard(), seeds=[3, 4], model="popularity", split="random").recommenders[1]
    with pytest.raises(ConfigError, match="trained with seed 4 on data that were drawn with seed 0"):
        settings_to_repeat(rec.config, rec.plan)


def test_seeds_may_be_named():
    assert fastncf.repeat(checkerboard(), seeds=[7, 3], model="popularity").seeds == (7, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 1}, "seeds=1: expected at least 2 different seeds"),
        ({"seeds": 0}, "seeds=0: expected an integer of at least 1"),
        ({"seeds": [2, 2]}, r"seeds=\[2, 2\]: expected at least 2 different seeds"),
        ({"seeds": [1, -2]}, "seed=-2: expected an integer"),
        ({"seeds": 10_001}, "seeds=10001: expected at most 10,000 seeds"),
        ({"model": nn.Linear(1, 1)}, "repeat: model=Linear.* a module is trained in place"),
        ({"holdout": None}, "repeat: holdout=None measures nothing"),
        ({"epoch": 2}, "unknown setting: epoch; did you mean epochs"),
        ({"checkpoint": "c"}, "unknown setting: checkpoint; fit takes an argument of this name, and this function"),
    ],
)
def test_mistakes_are_one_sentence(given, message):
    with pytest.raises(ConfigError, match=message):
        fastncf.repeat(checkerboard(), **given)


def test_a_seed_that_is_too_large_is_refused_before_the_data_are_read(capsys):
    with pytest.raises(ConfigError, match=r"seed=9223372036854775808: expected .* below 2\*\*63"):
        fastncf.repeat("no-such-file.csv", seeds=3, seed=2**63 - 2)
    with pytest.raises(SystemExit):
        cli.main(["fit", "no-such-file.csv", "--dry-run", "--seeds", "3", "--seed", str(2**63 - 2)])
    assert "--seed 9223372036854775808: expected" in capsys.readouterr().err


def test_command_line(tmp_path, capsys):
    checkerboard().write_csv(tmp_path / "ratings.csv")
    words = ["fit", str(tmp_path / "ratings.csv"), "--epochs", "1", "--budget", "fast", "--seeds", "2"]
    with pytest.raises(SystemExit) as stopped:
        cli.main([*words, "--json", "--out", str(tmp_path / "model")])
    assert not stopped.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["seeds"] == [0, 1]
    assert fastncf.load(tmp_path / "model").metrics == {name: values[0] for name, values in found["metrics"].items()}
    with pytest.raises(SystemExit):
        cli.main(words)
    out = capsys.readouterr().out
    assert out.startswith(
        f"HR@10          {found['means']['hr@10']:.4f} ± {found['deviations']['hr@10']:.4f}   popularity "
    )
    assert "; 2 seeds" in out
    with pytest.raises(SystemExit) as stopped:
        cli.main([*words, "--refit"])
    assert stopped.value.code == 2
    assert "--seeds: expected no --refit" in capsys.readouterr().err
