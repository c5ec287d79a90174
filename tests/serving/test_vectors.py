"""Vectors of users and items as frames and files, similar users and items, and titles wherever items appear."""

import errno
import json
import os
import stat

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn

import fastncf
from fastncf import cli
from fastncf.data.replaced_file import replaced_files
from fastncf.errors import ConfigError, DataError, DataNotFoundError
from fastncf.evaluation.topk import FactorItems
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.topk import TILE, LeftOut
from tests.conftest import checkerboard

USERS, ITEMS = 20, 14
SMALL = {"epochs": 1, "num_negatives": 2}
DIMS = {
    "mf": {"dim": 4},
    "gmf": {"dim": 4},
    "mlp": {"dim": 4, "layers": (4,), "optimizer": "adam"},
    "neumf": {"dim": 4, "layers": (4,), "mlp_dim": 3, "optimizer": "adam"},
}
TITLES = pl.DataFrame({"title": [f"T\u00e9st {n}" for n in range(ITEMS)], "item": range(ITEMS)})


@pytest.fixture(scope="module", params=DIMS)
def rec(request):
    return fastncf.fit(checkerboard(USERS, ITEMS, 2), model=request.param, **DIMS[request.param], **SMALL)


def test_vectors_are_frames_of_arrays(rec, tmp_path):
    rec.save(tmp_path / "model")
    again = fastncf.load(tmp_path / "model")
    for noun, size in (("user", USERS), ("item", ITEMS)):
        frame = getattr(rec, f"{noun}_vectors")()
        assert frame[noun].to_list() == list(range(size))
        width = {"neumf": 7, "gmf": 2}.get(rec.config.model, 4)  # two dimensions of the gmf hold biases
        assert frame.schema["vector"] == pl.Array(pl.Float32, width)
        assert frame.columns == [noun, "vector", "bias"] if rec.config.model == "mf" else [noun, "vector"]
        assert_frame_equal(frame, getattr(again, f"{noun}_vectors")())


def test_vectors_and_biases_of_an_mf_give_its_scores():
    rec = fastncf.fit(checkerboard(USERS, ITEMS, 2), dim=4, **SMALL)
    for _ in range(2):
        users, items = rec.user_vectors(), rec.item_vectors()
        scores = users["vector"].to_numpy() @ items["vector"].to_numpy().T
        scores += users["bias"].to_numpy()[:, None] + items["bias"].to_numpy()
        pairs = np.indices(scores.shape).reshape(2, -1)
        np.testing.assert_allclose(rec.score(*pairs)["score"].to_numpy(), scores.ravel(), rtol=1e-5, atol=1e-6)
        assert isinstance(rec.model, nn.Module)  # the same as a module


@pytest.mark.parametrize("noun", ["user", "item"])
def test_similar_ones_are_those_with_the_largest_cosine(rec, noun):
    vectors = getattr(rec, f"{noun}_vectors")()["vector"].to_numpy()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = getattr(rec, f"similar_{noun}s")([3, 5, 3], k=4)
    assert found.columns == [noun, f"similar_{noun}", "score", "rank"]
    assert found[noun].to_list() == [3] * 4 + [5] * 4 + [3] * 4
    assert found["rank"].to_list() == [1, 2, 3, 4] * 3
    cosines = unit @ unit[3]
    cosines[3] = -2
    order = np.argsort(-cosines, kind="stable")[:4]
    np.testing.assert_allclose(found["score"][:4], cosines[order], atol=1e-6)
    np.testing.assert_allclose(cosines[found[f"similar_{noun}"][:4].to_numpy()], cosines[order], atol=1e-6)
    assert getattr(rec, f"similar_{noun}s")([3], k=99).height == len(vectors) - 1


def test_export_to_parquet_and_npz(rec, tmp_path):
    users, items = rec.user_vectors(), rec.item_vectors()
    assert rec.export(tmp_path / "folder") == [
        tmp_path / "folder" / "users.parquet",
        tmp_path / "folder" / "items.parquet",
    ]
    rec.export(tmp_path / "folder")  # replaces the files
    assert_frame_equal(pl.read_parquet(tmp_path / "folder" / "users.parquet"), users)
    assert_frame_equal(pl.read_parquet(tmp_path / "folder" / "items.parquet"), items)
    assert rec.export(str(tmp_path / "all.npz")) == [tmp_path / "all.npz"]
    with np.load(tmp_path / "all.npz") as arrays:
        biases = {"user_bias", "item_bias"} if rec.config.model in ("mf", "gmf") else set()
        assert set(arrays) == {"user_ids", "user_vectors", "item_ids", "item_vectors"} | biases
        np.testing.assert_array_equal(arrays["item_vectors"], items["vector"].to_numpy())
        np.testing.assert_array_equal(arrays["user_ids"], users["user"].to_numpy())


def test_an_export_of_several_files_that_fails_leaves_all_of_the_older_ones(rec, tmp_path, monkeypatch):
    rec.export(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write, calls = pl.DataFrame.write_parquet, []

    def fail_second(frame, path, **options):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(frame.head(1), path, **options)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", fail_second)
    with pytest.raises(DataError, match=r"items\.parquet: cannot be written \(No space left on device\)"):
        rec.export(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    rec.export(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.read_bytes() != before[path.name]} == set(before)


def test_a_disk_that_is_full_at_any_synchronisation_leaves_no_new_file_beside_an_older_one(tmp_path, monkeypatch):
    """Network file systems say so no earlier."""
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").write_text("old")
    synced: list[str] = []
    failing = 0

    def fsync(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        if len(synced) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write() -> None:
        with replaced_files() as draft_of:
            draft_of(tmp_path / "a").write_text("new")
            draft_of(tmp_path / "b").write_text("new")

    monkeypatch.setattr(os, "fsync", fsync)
    while failing < 2:
        failing += 1
        synced.clear()
        with pytest.raises(DataError, match="No space left"):
            write()
        assert synced[-1] == "file"
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}
    failing = 0
    synced.clear()
    write()
    assert synced[:2] == ["file", "file"]
    assert set(synced[2:]) == {"folder"}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}


def test_text_ids_and_titles_are_exported(tmp_path):
    data = checkerboard(USERS, ITEMS, 2).with_columns(pl.format("u\u00e9 {}", "user").alias("user"))
    rec = fastncf.fit(data, dim=4, titles=TITLES.head(9), **SMALL)
    rec.export(tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz", allow_pickle=False) as arrays:
        assert arrays["user_ids"].tolist() == rec.users.ids.to_list()
        assert arrays["item_titles"].tolist() == [f"T\u00e9st {n}" for n in range(9)] + [""] * 5


def test_what_cannot_be_exported_is_named(rec, tmp_path):
    for path in ("vectors.csv", 7):
        with pytest.raises(
            ConfigError, match=r"export: .*: expected the path of a folder, or of a file whose name ends"
        ):
            rec.export(path)
    for path in (tmp_path / "no" / "x.npz", tmp_path / "no" / "x"):
        with pytest.raises(DataNotFoundError, match="its folder does not exist"):
            rec.export(path)
    for path in ("a\0b", "a\0b.npz", "x" * 300, "x" * 300 + ".npz"):
        with pytest.raises(DataError, match=r"null character|too long"):
            rec.export(path)
    with pytest.raises(DataError, match="its name holds a null character"):
        rec.recommend(1, out="a\0b.csv")
    popular = fastncf.fit(checkerboard(USERS, ITEMS, 2), model="popularity")
    for call in (popular.user_vectors, popular.item_vectors, lambda: popular.similar_users(1)):
        with pytest.raises(
            ConfigError, match=r"popularity has no vectors to compare (user|item)s by; expected a model"
        ):
            call()


def test_titles_stand_wherever_items_appear(tmp_path):
    rec = fastncf.fit(checkerboard(USERS, ITEMS, 2), dim=4, titles=TITLES, **SMALL)
    rec.save(tmp_path / "model")
    TITLES.with_columns(title=pl.lit("other")).write_csv(tmp_path / "titles.csv")
    plain = fastncf.fit(checkerboard(USERS, ITEMS, 2), dim=4, **SMALL)
    for one in (rec, fastncf.load(tmp_path / "model")):
        title_of = {item: title for title, item in TITLES.iter_rows()}
        found = one.recommend([3, 4], k=2)
        assert found.columns == ["user", "item", "title", "score", "rank"]
        assert found["title"].to_list() == [title_of[item] for item in found["item"]]
        assert_frame_equal(found.drop("title"), plain.recommend([3, 4], k=2))
        similar = one.similar_items(3, k=2)
        assert similar.columns == ["item", "title", "similar_item", "similar_title", "score", "rank"]
        assert similar["similar_title"].to_list() == [title_of[item] for item in similar["similar_item"]]
        assert one.item_vectors().columns == ["item", "title", "vector", "bias"]
        assert one.score([3], [4])["title"].to_list() == [title_of[4]]
        assert one.recommend(3, k=1, titles=tmp_path / "titles.csv")["title"].to_list() == ["other"]
        one.recommend(k=2, out=tmp_path / "recs.parquet")
        assert_frame_equal(pl.read_parquet(tmp_path / "recs.parquet"), one.recommend(k=2))
    assert fastncf.load(tmp_path / "model", titles=tmp_path / "titles.csv").recommend(3, k=1)["title"][0] == "other"
    assert rec.recommend(history=[1, 2], k=2).columns == ["item", "title", "score", "rank"]
    assert plain.recommend(history=[1, 2], k=2, titles=TITLES).columns == ["item", "title", "score", "rank"]
    assert plain.recommend(3, k=1, titles=TITLES)["title"].len() == 1


def test_titles_that_cannot_be_used_are_refused_before_the_training(monkeypatch):
    monkeypatch.setattr("fastncf.train.train_stages", lambda *_, **__: pytest.fail("was trained"))
    with pytest.raises(DataError, match="has a title for none of the 14 items"):
        fastncf.fit(checkerboard(USERS, ITEMS, 2), titles=pl.DataFrame({"item": [99], "title": ["x"]}))
    with pytest.raises(DataNotFoundError, match=r"nowhere.csv: no such file"):
        fastncf.fit(checkerboard(USERS, ITEMS, 2), titles="nowhere.csv")


def run(capsys, *arguments: object) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, arguments)))
    return int(stopped.value.code or 0), capsys.readouterr().out.splitlines()


def test_titles_and_export_on_the_command_line(capsys, tmp_path):
    checkerboard(USERS, ITEMS, 2).write_csv(tmp_path / "ratings.csv")
    TITLES.write_csv(tmp_path / "titles.csv")
    small = ("--dim", 4, "--epochs", 1, "--num-negatives", 2, "--out", tmp_path / "model")
    assert run(capsys, "fit", tmp_path / "ratings.csv", *small, "--titles", tmp_path / "titles.csv")[0] == 0
    code, out = run(capsys, "recommend", tmp_path / "model", "--user", 3, "--k", 2, "--json")
    assert code == 0
    expected = fastncf.load(tmp_path / "model").recommend(3, k=2).to_dicts()
    assert json.loads(out[-1])["recommendations"] == expected
    assert run(capsys, "fit", tmp_path / "ratings.csv", *small)[0] == 0
    code, out = run(capsys, "recommend", tmp_path / "model", "--user", 3, "--titles", tmp_path / "titles.csv")
    assert out[1].split("\t")[2].startswith("T\u00e9st ")
    TITLES.head(1).write_csv(tmp_path / "first.csv")
    code, out = run(capsys, "recommend", tmp_path / "model", "--user", 3, "--titles", tmp_path / "first.csv")
    assert {line.split("\t")[2] for line in out[1:]} <= {"", TITLES["title"][0]}
    for noun, argument in (("item", ("--item", 3, "--item", 5)), ("user", ("--user", 3))):
        code, out = run(capsys, "similar", tmp_path / "model", *argument, "--k", 2, "--json")
        assert code == 0
        wanted = getattr(fastncf.load(tmp_path / "model"), f"similar_{noun}s")([3, 5] if noun == "item" else [3], k=2)
        assert json.loads(out[-1])["similar"] == wanted.to_dicts()
        assert len(out) == 1
        assert len(run(capsys, "similar", tmp_path / "model", *argument, "--k", 2)[1]) == 1 + wanted.height
    for argument in ((), ("--item", 3, "--user", 3)):
        assert run(capsys, "similar", tmp_path / "model", *argument)[0] == 2
    code, out = run(capsys, "export", tmp_path / "model", tmp_path / "vectors")
    assert (code, out) == (0, [str(tmp_path / "vectors" / f"{name}.parquet") for name in ("users", "items")])


def test_vectors_as_frames_of_pandas_and_arrays_in_one_line():
    rec = fastncf.fit(checkerboard(), epochs=1, loss="bce", history="sequence", progress=False)
    for method in (rec.item_vectors, rec.user_vectors):
        plain, frame = method(), method(output="pandas")
        assert list(frame.columns) == plain.columns
        assert (np.stack(frame["vector"]) == plain["vector"].to_numpy()).all()
        with pytest.raises(ConfigError, match="output='numpy': expected one of polars, pandas"):
            method(output="numpy")
    assert repr(rec.trained) == f"Factors(60 users, 40 items, dim {rec.plan.final.dim})"
    assert repr(rec.encoder).startswith("HistoryEncoder(40 items, 2 features, dim ")


def test_items_of_a_module_are_arranged_once_until_it_changes():
    rec = fastncf.fit(checkerboard(), epochs=1, optimizer="adam", device="cpu", progress=False)
    first = rec.recommend(history=[0, 2], k=3)
    arranged = rec._factor_items
    assert rec.recommend(history=[0, 2], k=3).equals(first)
    assert rec._factor_items is arranged
    with torch.no_grad():
        rec.model.item_bias[1] += 100
    assert rec.recommend(history=[0, 2], k=1)["item"].to_list() == [1]


def test_a_large_catalogue_is_arranged_tile_by_tile_with_the_same_answers(monkeypatch):
    generator = np.random.default_rng(8)
    shapes = (40, 7), (3 * TILE + 5, 7), (40,), (3 * TILE + 5,)
    factors = Factors(*(generator.normal(size=shape).astype(np.float32) for shape in shapes))
    copied = FactorItems(factors)
    assert copied._tiles.vectors.nbytes > factors.item_vectors.nbytes
    monkeypatch.setattr("fastncf.evaluation.topk._SMALL_BYTES", 1)
    arranged = FactorItems(factors)
    assert arranged._tiles.vectors.nbytes == 0
    for num_users in (1, 40):
        users, indptr = np.arange(num_users, dtype=np.int32), np.arange(num_users + 1, dtype=np.int64)
        left_out = LeftOut(indptr, users * 40, np.empty(0, dtype=np.bool_))
        for ours, theirs in zip(arranged.top(users, 9, left_out), copied.top(users, 9, left_out), strict=True):
            np.testing.assert_array_equal(ours, theirs)
