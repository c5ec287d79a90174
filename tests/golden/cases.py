"""Cases whose results are recorded bit for bit in ``golden.json``.

A case is a function without arguments that returns plain values for JSON: hashes of arrays, and floats as they are.
Dropout appears only where the kernels for a CPU draw it, not where torch's autograd does.
"""

import functools
import itertools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its kernels then run on CPU tensors

import fastncf

# Everything that depends on where internals are and what they are called stands from here to ``Case``.
from fastncf import Config, Recommender
from fastncf.data.facts import DataFacts
from fastncf.data.given_files import read_with_test
from fastncf.data.interactions import Interactions, draw_users, read_interactions
from fastncf.data.split import Split, given_test, hold_out_another, leave_one_out, time_order
from fastncf.data.synthetic import synthetic_movielens, write_synthetic_movielens
from fastncf.models import build
from fastncf.models.mf import MF
from fastncf.plan import make_plan
from fastncf.rng import key
from fastncf.sampling.distributions import alias_table
from fastncf.sampling.negatives import sample_candidates, sample_negatives
from fastncf.sampling.permutation import permutation
from fastncf.trainers.cuda_mlp import CUDAMLPTrainer
from tests.conftest import plain_split
from tests.golden import data
from tests.golden.digests import digest, digest_arrays, digest_frame, digest_module
from tests.golden.fingerprint import Needs

SEQUENCE, BAG, PRETRAIN = "sequence", "bag", "pretrain"


def settings_of(rec: Recommender) -> dict[str, Any]:
    """Return settings of a fit: those of the layers where there are some, the history of what was trained first."""
    stages = [stage for stage in rec.plan.stages if stage.epochs]
    last = stages[-1]
    used = ["negatives", "epochs", "learning_rate", "l2"]
    used += ["negatives_exponent"] if last.negatives == "popularity" else []
    used += ["batch_size"] if last.optimizer != "sgd" else []
    optimizer = "pretrain" if len(stages) > 1 else last.optimizer
    return {"optimizer": optimizer, "history": stages[0].history} | {name: getattr(last, name) for name in used}


def factors_of(rec: Recommender) -> tuple[np.ndarray, ...] | None:
    """Return the arrays that a kernel has trained, where no module has been made of them yet."""
    return rec.trained if isinstance(rec.trained, tuple) else None


def counts_of(split: Split) -> list[int]:
    """Return numbers of repeated pairs, of users who have seen every item, and of users with nothing to hold out."""
    return [split.num_duplicates, split.num_users_all_seen, split.num_users_too_short]


def train_by_cuda_kernels(split: Split, config: Config) -> tuple[nn.Module, list[float]]:
    """Return an MLP that the CUDA kernels have trained on CPU tensors, and the loss of each epoch."""
    facts = DataFacts(
        num_users=split.num_users,
        num_items=split.num_items,
        num_interactions=len(split.indices),
        num_rows=len(split.indices),
        has_order=False,
        order_reason="",
        holdout="latest",
    )
    stage = make_plan(replace(config, device="cpu", optimizer="adam"), facts).final
    model = build(stage, split.num_users, split.num_items, np.zeros(split.num_items))
    with CUDAMLPTrainer(model, split, stage) as training:
        losses = [float(training.epoch(number)) for number in range(stage.epochs)]
    return model, losses


@dataclass(frozen=True)
class Case:
    """A function, and what the last bits of its results depend on."""

    needs: Needs
    run: Callable[[], dict[str, Any]]


CASES: dict[str, Case] = {}


def compute(name: str) -> dict[str, Any]:
    """Return the result of a case; torch uses one thread, since some of its sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return CASES[name].run()
    finally:
        torch.set_num_threads(threads)


def add(name: str, needs: Needs, run: Callable[[], dict[str, Any]]) -> None:
    """Add a case."""
    assert name not in CASES
    CASES[name] = Case(needs, run)


def add_fit(name: str, source: Callable[[], pl.DataFrame], *, needs: Needs, **settings: Any) -> None:
    """Add a fit on the CPU."""
    add(name, needs, lambda: result_of(fastncf.fit(source(), **{"device": "cpu", **settings})))


def result_of(rec: Recommender) -> dict[str, Any]:
    """Return parameters, losses and validation metrics by epoch, metrics, settings, and U, I and N of a fit."""
    factors = factors_of(rec)
    result: dict[str, Any] = {} if factors is None else {"factors": digest_arrays(*factors)}
    result["parameters"] = digest_module(rec.model)
    names = [name for name in (rec.training_log[0] if rec.training_log else ()) if name not in ("epoch", "seconds")]
    result["epochs"] = {name: [epoch[name] for epoch in rec.training_log] for name in names}
    result["metrics"] = dict(rec.metrics)
    if rec.training_log:
        result["settings"] = settings_of(rec)
    return result | {"shape": [len(rec.users), len(rec.items), len(rec.split.indices)]}


_BRIEF: dict[str, Any] = {"dim": 20, "epochs": 3, "l2": 0.004}


def _add_factorizations() -> None:
    """Add ``mf`` and ``gmf`` by SGD, and what starts from them, with each history."""
    for of, history in (("sequence", SEQUENCE), ("bag", BAG), ("none", "none")):
        mf = functools.partial(add_fit, needs="numba", model="mf", history=history)
        mf(f"mf-{of}", data.dense, **_BRIEF)
        mf(f"mf-{of}-bpr", data.dense, **_BRIEF, loss="bpr", negatives="uniform")
        mf(
            f"mf-{of}-popularity",
            data.dense,
            **_BRIEF,
            negatives="popularity",
            num_negatives=3,
            negatives_exponent=0.75,
        )
        mf(f"mf-{of}-dense-recipe", data.dense)
        mf(f"mf-{of}-sparse-recipe", data.sparse)
        mf(f"mf-{of}-dense-fast", data.dense, budget="fast")
        mf(f"mf-{of}-sparse-fast", data.sparse, budget="fast")
        mf(f"mf-{of}-patience", data.dense, dim=16, epochs=30, learning_rate=0.2, l2=0.0, validation=True, patience=1)
        mf(f"mf-{of}-one-order", data.dense, **_BRIEF, shuffle=False, schedule="constant", num_negatives=1)
        other = functools.partial(add_fit, needs="torch", history=history)
        other(f"gmf-{of}", data.dense, model="gmf", **_BRIEF)
        other(f"gmf-{of}-recipe", data.sparse, model="gmf")
        other(f"mlp-from-mf-{of}", data.dense, model="mlp", dim=12, layers=(24, 8), epochs=2)
        other(f"neumf-parts-{of}", data.dense, model="neumf", dim=12, epochs=2)

    mf = functools.partial(add_fit, needs="numba")
    mf("mf-two-copies-sequence", data.few_items, history=SEQUENCE, **_BRIEF)
    mf("mf-two-copies-bag-bpr", data.few_items, history=BAG, loss="bpr", **_BRIEF)
    mf("mf-blocks", data.many, history="none", dim=16, epochs=2, l2=0.002)
    mf("mf-blocks-bpr", data.many, history="none", dim=9, epochs=2, l2=0.002, loss="bpr", negatives="popularity")
    mf("mf-l2-chosen-by-fewer-epochs", data.many, dim=16, epochs=4)
    mf("mf-l2-times-8", data.few_items, history=BAG)
    mf("mf-l2-times-16", data.unordered, history=BAG, dim=32, epochs=60)
    mf("mf-no-order-found", data.unordered)
    mf("mf-without-times", lambda: data.dense().drop("time"), **_BRIEF, split="random")
    mf("mf-random-split", data.dense, **_BRIEF, split="random", validation=True)
    mf("mf-user-fraction", data.dense, **_BRIEF, user_fraction=0.5, seed=3)
    mf("mf-wide", data.dense, dim=129, epochs=2, l2=0.004, init_std=0.3, num_negatives=21)
    mf("mf-candidates", data.dense, **_BRIEF, k=3, num_candidates=40, distinct_candidates=False)
    mf("popularity", data.dense, model="popularity", full_ranking=True)
    add_fit("mf-order-found", data.dense, needs="torch", **_BRIEF, full_ranking=True)


def _add_adam() -> None:
    """Add models that are trained batch by batch: by torch where they are ``mf`` or ``gmf``, else by kernels."""
    for loss, negatives in itertools.product(("bce", "bpr"), ("uniform", "popularity")):
        adam = functools.partial(add_fit, needs="torch", optimizer="adam", loss=loss, negatives=negatives)
        for model in ("mf", "gmf"):
            adam(f"{model}-adam-{loss}-{negatives}", data.small, model=model, dim=10, epochs=4, batch_size=400)
        for model in ("mlp", "neumf"):
            adam(f"{model}-adam-{loss}-{negatives}", data.dense, model=model, dim=10, layers=(20, 9, 7), epochs=3)
    for model in ("mf", "gmf"):
        adam = functools.partial(add_fit, needs="torch", model=model, optimizer="adam")
        adam(f"{model}-adam-recipe", data.small, full_ranking=True)
        adam(f"{model}-adam-fast", data.small, budget="fast", num_negatives=2)
        adam(f"{model}-bfloat16", data.small, dim=16, epochs=2, precision="bfloat16")
    add_fit("gmf-tiny", data.small, needs="torch", model="gmf", dim=2, epochs=3)


def _add_layers() -> None:
    """Add ``mlp`` and ``neumf``."""
    for model in ("mlp", "neumf"):
        net = functools.partial(add_fit, needs="torch", model=model)
        net(f"{model}-recipe", data.small, full_ranking=True)
        net(f"{model}-fast", data.dense, budget="fast")
        net(f"{model}-pretrain-dropout", data.dense, dim=16, epochs=2, dropout=0.2, optimizer=PRETRAIN)
        net(f"{model}-bpr", data.sparse, dim=16, epochs=2, loss="bpr", negatives="popularity", num_negatives=3)
        net(f"{model}-patience", data.dense, dim=8, epochs=30, learning_rate=0.02, validation=True, patience=1)
        net(f"{model}-user-fraction", data.dense, dim=8, epochs=2, user_fraction=0.4, split="random", seed=5)
        adam = functools.partial(net, optimizer="adam")
        adam(f"{model}-adam-recipe", data.small)
        adam(f"{model}-adam-fast", data.dense, budget="fast")
        adam(f"{model}-adam-dropout", data.dense, dim=16, epochs=3, dropout=0.2)
        adam(f"{model}-adam-dropout-bpr", data.dense, dim=13, layers=(33,), epochs=2, dropout=0.4, loss="bpr")
        adam(f"{model}-one-order", data.dense, dim=8, epochs=2, shuffle=False, schedule="constant", l2=0.0)
        adam(f"{model}-large-batch", data.dense, dim=8, epochs=3, batch_size=50_000)
        adam(f"{model}-small-batch", data.small, dim=8, layers=(8,), epochs=5, batch_size=9)
        adam(f"{model}-20000-steps", data.dense, dim=8, layers=(8,), epochs=5, batch_size=9)
        adam(f"{model}-bfloat16", data.small, dim=16, epochs=2, precision="bfloat16")
    neumf = functools.partial(add_fit, needs="torch", model="neumf")
    neumf("neumf-mlp-dim", data.dense, dim=10, mlp_dim=20, layers=(24, 12), epochs=2)
    neumf("neumf-adam-mlp-dim", data.dense, optimizer="adam", dim=20, mlp_dim=7, epochs=2)


class OwnModel(nn.Module):
    """A module as a user may write it; the name of one of its embeddings holds neither ``user`` nor ``item``."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            self.user_embedding = nn.Embedding(users, 6)
            self.item_embedding = nn.Embedding(items, 6)
            self.level = nn.Embedding(items, 1)
            self.hidden = nn.Linear(12, 5)
            self.output = nn.Linear(5, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        x = torch.cat([self.user_embedding(users), self.item_embedding(items)], dim=-1)
        return (self.output(torch.tanh(self.hidden(x))) + self.level(items)).squeeze(-1)


def _sizes(frame: pl.DataFrame) -> tuple[int, int]:
    return frame["user"].n_unique(), frame["item"].n_unique()


def _fit_own_mf(**settings: Any) -> dict[str, Any]:
    model = MF(*_sizes(data.dense()), 12, torch.Generator().manual_seed(7), std=0.05)
    return result_of(fastncf.fit(data.dense(), model=model, device="cpu", epochs=3, l2=0.004, **settings))


def _fit_own(*, double: bool = False, epochs: int = 3, **settings: Any) -> dict[str, Any]:
    model = OwnModel(*_sizes(data.small()))
    model = model.double() if double else model
    return result_of(fastncf.fit(data.small(), model=model, device="cpu", epochs=epochs, batch_size=500, **settings))


def _fit_notebook() -> dict[str, Any]:
    config = Config.notebook(user_fraction=1.0, device="cpu")
    return result_of(fastncf.fit(data.dense(), config=config))


def _fit_given_test(*, has_candidates: bool, **settings: Any) -> dict[str, Any]:
    train, test, lists = data.given_test()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lists"
        path.write_text(lists)
        candidates = path if has_candidates else None
        return result_of(fastncf.fit(train, test=test, candidates=candidates, device="cpu", **settings))


def rounded(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with its scores rounded to 4 decimals, without negative zeros."""
    return frame.with_columns(pl.col("score").round(4) + 0.0)


def _answer(model: str) -> dict[str, Any]:
    """Return what a fitted model recommends and scores, scores to 4 decimals: the order of a sum is not promised."""
    rec = fastncf.fit(data.small(), model=model, dim=8, epochs=2, device="cpu")
    users, items = (ids.to_list()[:20] for ids in (rec.users.ids, rec.items.ids))
    return {
        "recommend": digest_frame(rounded(rec.recommend(users, k=7))),
        "recommend_seen": digest_frame(rounded(rec.recommend(users[::-1], k=100, exclude_seen=False))),
        "similar_items": digest_frame(rounded(rec.similar_items(items, k=5))),
        "score": digest_frame(rounded(rec.score(users, items))),
        "evaluate": rec.evaluate(k=4, num_candidates=20, full_ranking=True).metrics,
    }


def _fit_by_cuda_kernels() -> dict[str, Any]:
    """Train by the Triton kernels in the interpreter: batches of one program each, more than 64 in an epoch."""
    split = plain_split(*data.random_csr(40, 24, 900), 24)
    config = Config(model="mlp", dim=8, layers=(16, 16), num_negatives=2, batch_size=21, epochs=2, l2=0.01)
    model, losses = train_by_cuda_kernels(split, config)
    return {"parameters": digest_module(model), "losses": losses, "interactions": len(split.indices)}


def _add_others() -> None:
    """Add fits that take more than a frame and settings, and what is asked of fitted models."""
    add("mlp-notebook", "torch", _fit_notebook)
    add("own-mf-sequence", "torch", lambda: _fit_own_mf(history=SEQUENCE))
    add("own-mf-none", "torch", lambda: _fit_own_mf(history="none"))
    add("own-mf-adam", "torch", lambda: _fit_own_mf(optimizer="adam"))
    add("own-module", "torch", _fit_own)
    add("own-module-float64", "torch", lambda: _fit_own(double=True, loss="bpr", l2=0.01))
    add("own-module-popularity", "torch", lambda: _fit_own(negatives="popularity", shuffle=False, full_ranking=True))
    add("own-module-patience", "torch", lambda: _fit_own(epochs=30, validation=True, patience=1, learning_rate=0.1))
    add("given-test-candidates", "numba", lambda: _fit_given_test(has_candidates=True, dim=8, epochs=3))
    add("given-test-mlp", "torch", lambda: _fit_given_test(has_candidates=False, model="mlp", dim=8, epochs=3))
    for model in ("mf", "gmf", "mlp", "neumf"):
        add(f"answers-{model}", "torch", functools.partial(_answer, model))
    add("cuda-mlp", "triton", _fit_by_cuda_kernels)


def _draw_keys() -> dict[str, Any]:
    return {"keys": [str(key(*parts)) for parts in ((0,), (1, 2), (2, 1), (2**63 - 1, 5, 10**12), (7, 1, 0, 2, 3))]}


def _draw_orders() -> dict[str, Any]:
    keys, cpu = (0, key(0, 2, 0), 2**64 - 1), torch.device("cpu")
    return {
        str(size): digest_arrays(*(permutation(size, seed_key, cpu).numpy() for seed_key in keys))
        for size in (1, 2, 3, 7, 1_000, 4_099, 65_536, 100_003)
    }


def _distinct_weights(num_items: int) -> Any:
    """Return weights of which no two are alike, so that nothing depends on how ties are sorted."""
    return alias_table("popularity", 1 + np.argsort(data.draws(num_items, 930), kind="stable"), 1.0)


def _tied_weights(num_items: int) -> Any:
    return alias_table("popularity", data.draws_below(30, num_items, 931), 0.75)


def _draw_negatives(weights: Callable[[int], Any]) -> dict[str, Any]:
    result = {}
    for stream, (users, items, num_negatives) in enumerate([(40, 50, 4), (25, 7, 1), (3, 5_000, 9), (5, 2, 3)]):
        csr = data.random_csr(users, items, 910 + 2 * stream)
        for seed, epoch in ((0, 0), (0, 1), (2**60, 3)):
            drawn = sample_negatives(*csr, items, num_negatives, seed=seed, epoch=epoch, alias_table=weights(items))
            result[f"{users} x {items} x {num_negatives}, seed {seed}, epoch {epoch}"] = digest_arrays(drawn)
    return result


def _draw_candidates(distinct: bool) -> dict[str, Any]:
    result = {}
    for stream, (users, items, count) in enumerate([(40, 50, 20), (25, 7, 9), (3, 5_000, 99), (30, 200, 150)]):
        csr = data.random_csr(users, items, 940 + 2 * stream)
        rows = np.arange(users, dtype=np.int32)[::-1].copy()
        for seed_key in (0, key(3, 3)):
            drawn = sample_candidates(*csr, items, rows, count, seed_key=seed_key, distinct=distinct)
            result[f"{users} x {items} x {count}, key {seed_key}"] = digest_arrays(drawn)
    return result


def _make_alias_tables(weights: Callable[[int], Any]) -> dict[str, Any]:
    return {str(size): digest_arrays(*map(np.asarray, weights(size))) for size in (1, 2, 3, 64, 65, 5_000)}


def _add_draws() -> None:
    """Add keys, orders, negatives, candidates and tables that items are drawn from."""
    add("keys", "integers", _draw_keys)
    add("orders", "integers", _draw_orders)
    add("negatives-uniform", "integers", lambda: _draw_negatives(lambda _: None))
    add("negatives-weighted", "integers", lambda: _draw_negatives(_distinct_weights))
    add("negatives-popularity", "numba", lambda: _draw_negatives(_tied_weights))
    add("candidates-distinct", "integers", lambda: _draw_candidates(True))
    add("candidates-repeated", "integers", lambda: _draw_candidates(False))
    add("alias-tables", "integers", lambda: _make_alias_tables(_distinct_weights))
    add("alias-tables-popularity", "numba", lambda: _make_alias_tables(_tied_weights))


def _result_of_split(split: Split) -> dict[str, Any]:
    names = ["indptr", "indices", "test_item", "validation_item"]
    names += [] if split.test_candidates is None else ["test_candidates"]
    result: dict[str, Any] = {name: digest_arrays(getattr(split, name)) for name in names}
    return result | {"counts": counts_of(split), "items": split.num_items, "seen": digest_arrays(*split.seen())}


def _result_of_reading(read: Interactions) -> dict[str, Any]:
    return {
        "ids": digest(str(vocabulary.ids.to_list()).encode() for vocabulary in (read.users, read.items)),
        "codes": digest_arrays(read.user, read.item),
        "time": None if read.time is None else digest_arrays(read.time),
    }


def _split(source: Callable[[], pl.DataFrame]) -> dict[str, Any]:
    read = read_interactions(source())
    latest = leave_one_out(read, validation=True)
    order = time_order(read, latest)
    rest, rest_order, items = hold_out_another(latest, order, seed=0)
    return {
        "read": _result_of_reading(read),
        "latest": _result_of_split(leave_one_out(read)),
        "validation": _result_of_split(latest),
        "random": _result_of_split(leave_one_out(read, validation=True, random=True, seed=9)),
        "by_time": digest_arrays(order),
        "another": digest_arrays(rest.indptr, rest.indices, rest_order, items),
    }


def _split_given() -> dict[str, Any]:
    train, test, lists = data.given_test()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lists"
        path.write_text(lists)
        read, held_out = read_with_test(train, test, path)
    return {"read": _result_of_reading(read), "split": _result_of_split(given_test(read, held_out))}


def _split_text_ids() -> dict[str, Any]:
    rows = [f"u{user},{item} é,{time}\n" for user, item, time in data.small().iter_rows()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.csv"
        path.write_text("".join(["user,item,time\n", *rows]), encoding="utf-8")
        read = read_interactions(path)
    return {"read": _result_of_reading(read), "split": _result_of_split(leave_one_out(read))}


def _split_by_numpy_draws() -> dict[str, Any]:
    read = draw_users(read_interactions(data.dense()), 0.3, key(0, 5))
    split = leave_one_out(read)
    rest, _, items = hold_out_another(split, None, seed=4)
    return {
        "read": _result_of_reading(read),
        "split": _result_of_split(split),
        "another": digest_arrays(rest.indptr, rest.indices, items),
    }


def _generate() -> dict[str, Any]:
    return {
        f"{shape}, seed {seed}": digest_frame(synthetic_movielens(*shape, seed=seed).collect())
        for shape in ((100, 60, 1_500), (300, 40, 3_000), (50, 700, 1_400))
        for seed in (0, 2**40 + 1)
    }


def _generate_files() -> dict[str, Any]:
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for dialect in ("grouplens", "kaggle"):
            path = Path(folder) / dialect
            write_synthetic_movielens(path, 100, 60, 1_500, seed=3, dialect=dialect)
            result[dialect] = digest([path.read_bytes()])
    return result


def _add_data() -> None:
    """Add splits and generated data sets."""
    for source in (data.dense, data.sparse, data.unordered, data.few_items):
        add(f"split-{source.__name__}", "integers", functools.partial(_split, source))
    add("split-given", "integers", _split_given)
    add("split-text-ids", "integers", _split_text_ids)
    add("split-numpy-draws", "numba", _split_by_numpy_draws)
    add("generated", "numba", _generate)
    add("generated-files", "numba", _generate_files)


_add_factorizations()
_add_adam()
_add_layers()
_add_others()
_add_draws()
_add_data()
