"""A saved model that is damaged is refused, and one that was changed on purpose is refused or harmless."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load, save
from torch import nn

import fastncf
from fastncf import files
from fastncf.errors import ConfigError, DataError, DataNotFoundError, DeviceError
from fastncf.kernels.cpu.factors import Factors
from fastncf.persistence.arrays import read_arrays
from fastncf.persistence.plain import UnexpectedError
from tests import campaigns
from tests.conftest import checkerboard
from tests.persistence import mutations
from tests.persistence.faults import FaultyOS
from tests.persistence.saved import (
    BEFORE,
    MODELS,
    change_arrays,
    change_description,
    description_of,
    file_of,
    fitted,
    is_same,
    renew_checksums,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Folders of saved models by the name of the model."""
    target = tmp_path_factory.mktemp("originals")
    for name in MODELS:
        fitted(name).save(target / name)
    return target


@pytest.fixture
def folder(originals, tmp_path):
    """A folder of an mf that a test may change."""
    return shutil.copytree(originals / "mf", tmp_path / "mf")


@pytest.mark.parametrize("name", MODELS)
def test_what_was_saved_is_loaded(originals, tmp_path, name):
    rec = fastncf.load(originals / name)
    rec.save(tmp_path)
    assert is_same(fastncf.load(tmp_path), rec)
    assert isinstance(rec.trained, Factors) == (name in ("mf", "popularity"))


def test_each_flipped_bit_is_noticed_and_the_file_is_named(originals, folder):
    whole = fastncf.load(originals / "mf")
    generator = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for at in generator.integers(8 * len(content), size=60):
            changed = bytearray(content)
            changed[at // 8] ^= 1 << (at % 8)
            path.write_bytes(changed)
            try:
                assert is_same(fastncf.load(folder), whole)  # a blank of the JSON, or a digit that a float has not
                assert path.suffix == ".json"
            except DataError as error:
                assert path.name in str(error) or "has format" in str(error)  # noqa: PT017
        path.write_bytes(content)


def test_a_flipped_bit_is_read_where_nobody_wants_checksums(folder):
    path = file_of(folder, "model")
    content = bytearray(path.read_bytes())
    vectors = load(bytes(content))["user_embedding.weight"].tobytes()
    at = content.index(vectors)
    content[at] ^= 1  # the last digit of a number
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path.name} is missing or damaged .*SHA-256"):
        fastncf.load(folder)
    whole = fastncf.load(folder, verify=False)
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"bytes and fastncf.json states"):
        fastncf.load(folder, verify=False)
    content[at] ^= 1
    path.write_bytes(content)
    assert not is_same(whole, fastncf.load(folder, verify=False))
    with pytest.raises(ConfigError, match=r"verify='no'.*True or False"):
        fastncf.load(folder, verify="no")


def test_arrays_are_decoded_as_safetensors_does_or_refused():
    """Random arrays, and the same with a changed byte of the header."""
    generator = np.random.default_rng(0)
    dtypes = [np.float32, np.int64, np.bool_, np.uint8, np.float16, np.int32]
    num_equal = num_refused = 0
    for _ in range(400):
        arrays = {
            f"a{at}": generator.integers(0, 2, tuple(generator.integers(0, 4, generator.integers(0, 4)))).astype(
                dtypes[generator.integers(len(dtypes))]
            )
            for at in range(generator.integers(0, 4))
        }
        content = bytearray(save({name: np.asarray(array, order="C") for name, array in arrays.items()}))
        if generator.random() < 0.8:
            content[generator.integers(8 + int.from_bytes(content[:8], "little"))] = generator.integers(32, 127)
        try:
            found = read_arrays(BytesIO(content), len(content))
        except UnexpectedError:
            num_refused += 1
            continue
        expected = load(bytes(content))
        assert found.keys() == expected.keys()
        assert all(
            found[name].dtype == array.dtype and found[name].shape == array.shape and np.array_equal(found[name], array)
            for name, array in expected.items()
        )
        # each can be had back by itself, and begins where torch's tensors do
        assert all(
            array.base.nbytes == array.nbytes + 64 and array.ctypes.data % 64 == 0
            for array in found.values()
            if array.size
        )
        num_equal += 1
    assert min(num_equal, num_refused) > 50


@pytest.mark.parametrize("change", ["cut", "grow", "swap", "remove"])
@pytest.mark.parametrize("role", ["model", "data"])
def test_a_file_of_another_length_or_model_is_named(originals, folder, role, change):
    path = file_of(folder, role)
    content = path.read_bytes()
    if change == "remove":
        path.unlink()
    else:
        other = file_of(originals / "neumf", role).read_bytes()
        path.write_bytes({"cut": content[:-1], "grow": content + b"\0", "swap": other}[change])
    with pytest.raises(DataError, match=f"{path.name} is missing or damaged"):
        fastncf.load(folder)


@pytest.mark.parametrize("place", ["fastncf.json", "model", "data"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "lost link", "empty"])
def test_what_is_no_file_is_refused_and_not_waited_for(folder, place, kind):
    path = folder / place if place == "fastncf.json" else file_of(folder, place)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "/no/such/file")
    with pytest.raises((DataError, DataNotFoundError), match=path.name):
        fastncf.load(folder)


def test_links_to_the_files_are_followed(originals, tmp_path):
    (tmp_path / "model").mkdir()
    for path in (originals / "mf").iterdir():
        (tmp_path / "model" / path.name).symlink_to(path)
    assert is_same(fastncf.load(tmp_path / "model"), fastncf.load(originals / "mf"))


@pytest.mark.parametrize("path", ["missing", "file", "file/below", "empty"])
def test_no_model_is_said(tmp_path, path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match="holds no fastncf model"):
        fastncf.load(tmp_path / path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "no object"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"format": 3, "format": 3}', "twice"),
        (b'{"format": NaN}', "NaN"),
        (b'{"format": 1e999}', "too large"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"format": 99}', "has format 99; expected format 1 to 7"),
        (b'{"format": true}', "has format True"),
        (b'{"format": "3"}', "has format '3'"),
        (b'{"format": 6}', "SHA-256"),
        (b'{"format": 2}', "missing or damaged"),
    ],
)
def test_a_text_that_is_no_description_is_refused(tmp_path, content, message):
    (tmp_path / "fastncf.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        fastncf.load(tmp_path)


def test_a_digit_that_is_changed_is_noticed(folder):
    text = (folder / "fastncf.json").read_text()
    value = str(description_of(folder)["metrics"]["mrr"])
    (folder / "fastncf.json").write_text(text.replace(value, "0.123", 1))
    with pytest.raises(DataError, match=r"fastncf.json is missing or damaged \(its content does not have the SHA-256"):
        fastncf.load(folder)


def test_another_layout_of_the_same_json_is_the_same_model(originals, folder):
    (folder / "fastncf.json").write_text(json.dumps(description_of(folder), indent=3, sort_keys=True))
    assert is_same(fastncf.load(folder), fastncf.load(originals / "mf"))


DESCRIPTIONS = [
    (lambda d: d.pop("users"), "has no users"),
    (lambda d: d.pop("plan"), "has no plan"),
    (lambda d: d.update(unknown=1), "unknown name 'unknown'"),
    (lambda d: d.update(data=None), "data is null; expected an object"),
    (lambda d: d.update(holdout="newest"), "expected one of latest, random, given"),
    (lambda d: d.update(model_class=["MF"]), "model_class is a list or object; expected text"),
    (lambda d: d["config"].update(from_the_future=1), "from_the_future"),
    (lambda d: d["config"].pop("k"), "config has no k"),
    (lambda d: d["config"].update(dim=0), "dim=0"),
    (lambda d: d["config"].update(k=True), "config.k is True; expected an integer"),
    (lambda d: d["config"].update(k=2**64), "config.k is 18446744073709551616; expected an integer"),
    (lambda d: d["config"].update(validation=1), "config.validation is 1; expected true or false"),
    (lambda d: d["config"].update(model="../../mf"), r"model='../../mf': expected one of"),
    (lambda d: d["config"].update(layers=[64, None]), r"config.layers\[1\] is null; expected an integer"),
    (lambda d: d["plan"].update(stages=[]), "another number of reasons than of stages"),
    (lambda d: d["plan"]["stages"][0].pop("start"), r"plan.stages\[0\] has no start"),
    (lambda d: d["plan"]["stages"][0].update(dim=-1), "without a dimension"),
    (lambda d: d["plan"]["stages"][0].update(layers=[1] * 2000), "too many layers"),
    (lambda d: d["plan"]["stages"][0].update(dropout=-1.0), "dropout=-1.0: expected a number of at least 0"),
    (lambda d: d["plan"]["stages"][0].update(batch_size=0), "batch_size=0: expected an integer of at least 1"),
    (lambda d: d["plan"]["stages"][0].update(num_negatives=10**12), "num_negatives=1000000000000: expected an integer"),
    (
        lambda d: d["plan"]["stages"][0].update(learning_rate=-1.0),
        "learning_rate=-1.0: expected a finite number above 0",
    ),
    (lambda d: d["plan"]["stages"][0].update(l2=1e300), r"l2=1e\+300: expected a finite number of at least 0"),
    (lambda d: d["plan"]["stages"][0].update(seed=-1), "seed=-1: expected an integer of at least 0"),
    (lambda d: d["plan"]["stages"][0].update(epochs=10**15), "epochs=1000000000000000: expected an integer"),
    (lambda d: (d["plan"]["stages"][0].update(epochs=-1), d.update(num_kept=[])), "fewer than 0 epochs"),
    (lambda d: d["plan"]["reasons"][0].pop("epochs"), "no reason for 'epochs'"),
    (lambda d: d["plan"]["data"].update(num_users=13), "for other data"),
    (lambda d: d["plan"]["data"].update(num_interactions=1), "for other data"),
    (lambda d: d["plan"]["cost"].update(seconds="1"), "cost.seconds is '1'; expected a finite number"),
    (lambda d: d["metrics"].update(mrr="high"), "expected a finite number"),
    (lambda d: d["training_log"].append(3), "expected an object"),
    (lambda d: d["data"].pop("num_duplicates"), "num_duplicates is missing"),
    (lambda d: d["data"].update(users=3), "other numbers of users and items than the ids"),
    (lambda d: d["items"].update(dtype="Object"), "expected one of Int64, UInt64, String"),
    (lambda d: d["items"].update(dtype="String"), "not all text"),
    (lambda d: d["items"]["ids"].pop(), "other numbers of users and items"),
    (lambda d: d["items"]["ids"].reverse(), "do not ascend"),
    (lambda d: d["items"]["ids"].__setitem__(1, d["items"]["ids"][0]), "do not ascend"),
    (lambda d: d["items"]["ids"].__setitem__(1, 1.0), "not all integers"),
    (lambda d: d["items"]["ids"].__setitem__(1, None), "not all integers"),
    (lambda d: d["items"]["ids"].__setitem__(-1, 2**70), "not all integers"),
    (lambda d: d["users"].update(dtype="String", ids=[chr(97 + n) for n in range(11)] + ["\ud800"]), "not all text"),
    (lambda d: d.update(num_kept=[2]), "num_kept holds more epochs than the plan has"),
    (lambda d: d.update(num_kept=[-1]), "num_kept holds more epochs than the plan has, or fewer"),
    (lambda d: d.update(num_kept=[1, 1]), "num_kept has another length"),
    (lambda d: d.update(num_kept=1), "num_kept"),
    (lambda d: d["files"].pop("data"), "files names something other"),
    (lambda d: d["files"]["model"].update(name="../model.safetensors"), "files.model.name is '../model.safetensors'"),
    (lambda d: d["files"]["model"].update(name="/etc/passwd"), "files.model.name is '/etc/passwd'"),
    (lambda d: d["files"]["model"].update(d["files"]["data"]), "expected fastncf-model-NUMBER"),
    (lambda d: d["files"]["model"].update(name=None), "files.model.name is None"),
]


@pytest.mark.parametrize(("change", "message"), DESCRIPTIONS)
def test_a_description_that_contradicts_itself_is_refused(folder, change, message):
    change_description(folder, change)
    with pytest.raises(DataError, match=message) as caught:
        fastncf.load(folder)
    assert "expected" in str(caught.value)


def put(name, at, value):
    """Return a change of one number of an array."""
    return lambda arrays: arrays[name].__setitem__(at, value)


def cast(name, dtype):
    """Return a change of the dtype of an array."""
    return lambda arrays: arrays.update({name: arrays[name].astype(dtype)})


def reshape(name, *shape):
    """Return a change of the shape of an array."""
    return lambda arrays: arrays.update({name: np.resize(arrays[name], shape)})


ARRAYS = [
    ("data", put("indptr", 0, 1), "indptr does not ascend from 0"),
    ("data", put("indptr", 3, 2**40), "indptr does not ascend"),
    ("data", put("indptr", -1, 2**40), "indptr does not ascend"),
    ("data", put("indptr", 3, -1), "indptr does not ascend"),
    ("data", cast("indptr", np.int32), "indptr has shape .* and dtype int32"),
    ("data", reshape("indptr"), "indptr has shape"),
    ("data", put("indices", 0, -1), "indices holds -1"),
    ("data", put("indices", -1, 14), "indices holds"),
    ("data", lambda a: a["indices"].__setitem__(0, a["indices"][1]), "indices does not ascend"),
    ("data", reshape("indices", 3, 2), "indices has shape"),
    ("data", reshape("indices"), "indices has shape"),
    ("data", put("test_item", 2, 14), "test_item holds"),
    ("data", put("validation_item", 2, -2), "validation_item holds -2"),
    ("data", lambda a: a["test_item"].__setitem__(1, a["indices"][a["indptr"][1]]), "user's row of indices holds"),
    ("data", lambda a: a["validation_item"].__setitem__(1, a["test_item"][1]), "the same item of a user"),
    ("data", reshape("test_item", 5), "test_item has shape"),
    ("data", lambda a: a.update(test_candidates=np.zeros((3, 4), np.int32)), "test_candidates has shape"),
    ("data", lambda a: a.update(test_candidates=np.zeros(12, np.int32)), "test_candidates has shape"),
    ("data", lambda a: a.update(test_candidates=np.full((12, 4), 14, np.int32)), "test_candidates holds 14"),
    ("data", lambda a: a.update(more=a["indptr"]), "unknown array 'more'"),
    ("data", lambda a: a.pop("test_item"), "no array test_item"),
    ("data", put("order", 0, -1), "order does not hold the positions of each row"),
    ("data", put("order", 0, 10**6), "order does not hold the positions of each row"),
    ("data", lambda a: a["order"].__setitem__(0, a["order"][1]), "order does not hold the positions of each row"),
    ("data", cast("order", np.int64), "order has shape .* and dtype int64"),
    ("data", reshape("order", 5), "order has shape"),
    ("model", put("user_bias", 0, np.nan), "'user_bias' holds numbers that are not finite"),
    ("model", put("item_embedding.weight", (1, 1), np.inf), "not finite"),
    ("model", cast("user_bias", np.float64), "user_bias has shape .* and dtype float64; expected .* float32"),
    ("model", reshape("item_embedding.weight", 13, 4), "item_embedding.weight has shape"),
    ("model", reshape("user_embedding.weight", 48), "user_embedding.weight has shape"),
    ("model", lambda a: a.pop("item_bias"), "missing or unknown: item_bias"),
    ("model", lambda a: a.update(more=a["item_bias"]), "missing or unknown: more"),
    ("model", lambda a: a.pop("history_encoder.gains"), "missing or unknown: history_encoder.gains"),
    ("model", put("history_encoder.gains", 0, np.nan), "'gains' holds numbers that are not finite"),
    ("model", lambda a: a["history_encoder.decays"].__setitem__(a["history_encoder.is_mean"], 0.5), "1 for a mean"),
    ("model", put("history_encoder.decays", 0, 1.5), "decays holds numbers outside 0 to 1"),
    ("model", put("history_encoder.longest", (), 0), "longest is 0"),
    ("model", reshape("history_encoder.vectors", 13, 4), "history_encoder.vectors has shape"),
    ("model", reshape("history_encoder.vectors", 13, 1, 4), "history_encoder.vectors has shape"),
    ("model", cast("history_encoder.is_mean", np.int64), "is_mean has shape .* and dtype int64"),
]


@pytest.mark.parametrize(("role", "change", "message"), ARRAYS)
def test_arrays_that_compiled_code_could_not_use_are_refused(folder, role, change, message):
    change_arrays(folder, role, change)
    with pytest.raises(DataError, match=message):
        fastncf.load(folder)


KEPT = [
    (put("pretrained.item_bias", 0, np.nan), "'pretrained.item_bias' holds numbers that are not finite"),
    (cast("pretrained.item_vectors", np.float64), "pretrained.item_vectors has shape .* and dtype float64"),
    (reshape("pretrained.item_vectors", 13, 3), "pretrained.item_vectors has shape"),
    (reshape("pretrained.map.user_embedding.weight", 4, 4), "pretrained.map.user_embedding.weight has shape"),
    (lambda a: a.update({"pretrained.map.more": a["pretrained.item_vectors"]}), "pretrained.map.more has shape"),
    (lambda a: a.update({"pretrained.more": a["pretrained.item_bias"]}), "missing or unknown: pretrained.more"),
    (lambda a: a.pop("pretrained.item_bias"), "missing or unknown: pretrained"),
    (lambda a: a.pop("pretrained.map.user_embedding.weight"), "missing or unknown: pretrained"),
    (lambda a: a.pop("pretrained.history_encoder.gains"), "missing or unknown: history_encoder.gains"),
    (reshape("pretrained.history_encoder.vectors", 13, 3), "history_encoder.vectors has shape"),
]


def test_what_is_kept_of_a_pretraining_is_checked(tmp_path):
    data = checkerboard(num_users=12, num_items=14)
    fastncf.fit(data, model="mlp", dim=4, layers=(4,), epochs=1, history="bag", progress=False).save(tmp_path / "mlp")
    whole = fastncf.load(tmp_path / "mlp").recommend(history=[1, 3], k=5)
    for number, (change, message) in enumerate(KEPT):
        copy = shutil.copytree(tmp_path / "mlp", tmp_path / str(number))
        change_arrays(copy, "model", change)
        with pytest.raises(DataError, match=message):
            fastncf.load(copy)
    change_arrays(tmp_path / "mlp", "model", lambda a: [a.pop(name) for name in [*a] if name.startswith("pretrained")])
    older = fastncf.load(tmp_path / "mlp")
    assert older.pretrained is None
    assert older.recommend(history=[1, 3], k=5).shape == whole.shape


def test_an_encoder_without_the_length_that_earlier_versions_did_not_save_is_loaded(originals, folder):
    change_arrays(folder, "model", lambda arrays: arrays.pop("history_encoder.length"))
    assert is_same(fastncf.load(folder), fastncf.load(originals / "mf"))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("extra", [{"x": 1}, {"x": "nan"}, {"x": [1.5]}, {"x": None}])
def test_extra_states_that_nobody_knows_are_ignored_or_refused(originals, tmp_path, name, extra):
    folder = shutil.copytree(originals / name, tmp_path / name)
    change_description(folder, lambda d: d.update(extra_state=extra))
    loaded: list[fastncf.Recommender] = []
    with contextlib.suppress(DataError):
        loaded.append(fastncf.load(folder))
    assert all(is_same(rec, fastncf.load(originals / name)) for rec in loaded)


@pytest.mark.parametrize(
    "change",
    [
        {"trainer": "fastest"},
        {"trainer": "untrained"},
        {"trainer": "cuda_next_item"},
        {"history": "none"},
        {"loss": "x"},
    ],
    ids=str,
)
def test_a_plan_that_no_trainer_takes_is_said_before_anything_is_trained(folder, change):
    change_description(folder, lambda d: d["plan"]["stages"][0].update(change))
    rec = fastncf.load(folder)
    expected = rec.recommend()
    for train in (lambda: rec.refit(), lambda: rec.update(checkerboard(num_users=3, num_items=14), epochs=1)):
        with pytest.raises(ConfigError, match=r"^(refit|update): the trainer of the plan, .* cannot train it here"):
            train()
    assert rec.recommend().equals(expected)


def test_a_device_of_the_plan_that_is_not_here_is_said(originals, tmp_path):
    folder = shutil.copytree(originals / "neumf", tmp_path / "neumf")
    change_description(folder, lambda d: d["plan"]["stages"][0].update(device="cuda:99", trainer="autograd"))
    with pytest.raises(DeviceError, match=r"^device 'cuda:99' is not available"):
        fastncf.load(folder).refit()


def test_an_encoder_that_the_trainer_cannot_go_on_from_is_said(tmp_path):
    data = checkerboard(num_users=12, num_items=14)
    fastncf.fit(data, dim=4, epochs=1, loss="softmax", history="sequence", device="cpu").save(tmp_path)

    def keep_one(arrays):
        for name in ("gains", "decays", "is_mean"):
            arrays[f"history_encoder.{name}"] = arrays[f"history_encoder.{name}"][:1]
        arrays["history_encoder.vectors"] = arrays["history_encoder.vectors"][:, :1].copy()

    change_arrays(tmp_path, "model", keep_one)
    with pytest.raises(ConfigError, match="encoder of histories has 1 features; expected 4"):
        fastncf.load(tmp_path).update(data, epochs=1)


def test_a_size_that_would_not_fit_the_memory_is_refused_before_anything_is_allocated(originals, tmp_path):
    for change in ({"dim": 10**9}, {"mlp_dim": 2**62}, {"layers": [10**9, 4]}, {"layers": []}):
        folder = shutil.copytree(originals / "neumf", tmp_path / str(change))
        change_description(folder, lambda d, change=change: d["plan"]["stages"][-1].update(change))
        with pytest.raises(DataError, match="the parameters do not fit the model"):
            fastncf.load(folder)


def test_a_header_that_states_too_much_is_refused(folder):
    path = file_of(folder, "model")
    content = bytearray(path.read_bytes())
    for header in (2**63, 2**31, len(content), 8):
        content[:8] = int(header).to_bytes(8, "little")
        path.write_bytes(content)
        renew_checksums(folder, description_of(folder))
        with pytest.raises(DataError, match="no safetensors file"):
            fastncf.load(folder)


def test_no_code_is_imported_by_name(folder, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('the trap was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("trap", "..trap", "trap:MF", "layers", "__pycache__"):
        change_description(folder, lambda d, name=name: d["plan"]["stages"][-1].update(model=name, trainer=name))
        with pytest.raises(ConfigError, match=r"of the user's own; expected fastncf.load\(\) from"):
            fastncf.load(folder)
    change_description(folder, lambda d: d.update(model_class="trap.MF"))
    with pytest.raises(ConfigError, match=r"'trap.MF' of the user's own"):
        fastncf.load(folder)


@pytest.mark.parametrize("name", ["given", "mf", "mlp", "neumf", "popularity"])
def test_an_older_format_is_checked_as_far_as_it_can_be(tmp_path, name):
    arrays = load((BEFORE / name / "data.safetensors").read_bytes())
    for changed, array in arrays.items():
        folder = shutil.copytree(BEFORE / name, tmp_path / changed)
        out_of_range = array.copy()
        out_of_range.reshape(-1)[-1] = 2**30
        (folder / "data.safetensors").write_bytes(save(arrays | {changed: out_of_range}))
        with pytest.raises(DataError, match=changed):
            fastncf.load(folder)


class Own(nn.Module):
    """A module with tied tables, and a buffer that holds an infinity."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.table = nn.Embedding(14, 3, dtype=dtype)
        self.tied = nn.Embedding(14, 3, dtype=dtype)
        self.tied.weight = self.table.weight
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, users, items):
        return (self.table(users) * self.tied(items)).sum(-1).float()


def own_model(dtype: torch.dtype = torch.float32) -> fastncf.Recommender:
    """Return a recommender whose module is the user's own."""
    rec = fastncf.fit(checkerboard(12, 14, 2), model=Own(), epochs=1, num_candidates=5, device="cpu")
    rec.model = Own(dtype)
    return rec


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_module_of_the_users_own_is_saved_and_loaded(tmp_path, dtype):
    rec = own_model(dtype)
    rec.save(tmp_path)
    again = fastncf.load(tmp_path, model=Own(dtype))
    state = again.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in rec.model.state_dict().items())
    with pytest.raises(ConfigError, match=r"expected fastncf.load\(\) from Python with such a module"):
        fastncf.load(tmp_path)


@pytest.mark.parametrize("model", ["gmf", "mlp", "neumf"])
def test_a_default_device_of_torch_is_left_aside(tmp_path, model):
    rec = fastncf.fit(checkerboard(12, 14, 2), model=model, dim=4, epochs=1, device="cpu", progress=False)
    rec.save(tmp_path / "m")
    expected = rec.recommend(k=3)
    torch.set_default_device("meta")
    try:
        found = fastncf.load(tmp_path / "m")
        assert found.recommend(k=3).equals(expected)
        assert {tensor.device.type for tensor in found.model.state_dict().values()} == {"cpu"}
        assert found.export(tmp_path / "m.onnx")[0].exists()
    finally:
        torch.set_default_device(None)


def test_a_module_that_does_not_fit_is_said(tmp_path):
    rec = own_model()
    rec.save(tmp_path)
    for other in (nn.Linear(2, 3), nn.ModuleDict({"table": nn.Embedding(12, 4)})):
        with pytest.raises(DataError, match="the parameters do not fit the model"):
            fastncf.load(tmp_path, model=other)
    change_arrays(tmp_path, "model", lambda arrays: arrays["table.weight"].__setitem__((0, 0), np.nan))
    change_arrays(tmp_path, "model", lambda arrays: arrays["tied.weight"].__setitem__((0, 0), np.nan))
    with pytest.raises(DataError, match="not finite"):
        fastncf.load(tmp_path, model=Own())


def test_an_extra_state_that_json_does_not_hold_is_refused_by_save(tmp_path, monkeypatch):
    rec = own_model()
    monkeypatch.setattr(Own, "get_extra_state", lambda self: {"epoch": object()})
    with pytest.raises(ConfigError, match="its state holds a dict as _extra_state, which cannot be saved"):
        rec.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_device_that_reads_something_else_is_noticed(folder, monkeypatch):
    class Flipping(FaultyOS):
        """Flips a bit in what is read of arrays."""

        def read(self, descriptor: int, length: int) -> bytes:
            content = bytearray(super().read(descriptor, length))
            if len(content) > 8 and not content.startswith(b"{"):
                content[-1] ^= 1
            return bytes(content)

    monkeypatch.setattr(files, "os", Flipping())
    with pytest.raises(DataError, match=r"fastncf-(data|model)-.* does not have the SHA-256"):
        fastncf.load(folder)


def test_an_mf_is_loaded_and_evaluated_without_torch(folder):
    code = f"""
import sys, fastncf
rec = fastncf.load({str(folder)!r})
assert rec.evaluate().metrics == rec.metrics
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_changes_at_random(tmp_path):
    """Most of them in a process of its own, which would show a segmentation fault or a hang."""
    bases = mutations.base_folders(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [seed for seed in range(0, 200, 2) if mutations.attempt(seed, bases)] == []
    tried: Counter[str] = Counter()
    for failure in campaigns.failures("tests.persistence.mutations", 1000, 200, tried):
        pytest.fail(failure)
    assert tried["damaged"] == tried["changed on purpose"] == 100


def test_a_loaded_model_takes_little_more_memory_than_its_files(tmp_path):
    generator = np.random.default_rng(0)
    rows = {"user": generator.integers(0, 5000, 400_000), "item": generator.integers(0, 6000, 400_000)}
    frame = pl.DataFrame({**rows, "time": np.arange(400_000)})
    fastncf.fit(frame, dim=128, epochs=1, loss="bce", history="sequence", l2=0.01, num_candidates=5).save(tmp_path)
    fastncf.load(tmp_path).recommend(0)  # imports what that needs
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size > 5_000_000
    tracemalloc.start()
    try:
        rec = fastncf.load(tmp_path)
        kept, peak = tracemalloc.get_traced_memory()
        rec.recommend(0)
        asked, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1.05 * size
    assert peak < 1.2 * size
    assert asked - kept < 1.1 * rec.trained.item_vectors.nbytes  # the items once more, as recommend reads them
