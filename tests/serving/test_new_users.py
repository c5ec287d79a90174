"""Users who were not trained on, by each kind of model: told by their histories, and taken in by ``update()``."""

import copy
import re

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import fastncf
from fastncf import ConfigError, DataError, InsufficientMemoryError, memory
from fastncf.models.factored import popularity_factors
from fastncf.serving import module_users
from fastncf.serving.module_users import solve_tables, with_tables
from tests.conftest import checkerboard


class Dots(nn.Module):
    """Dot products without biases, of the user's own."""

    user_tables = ("users.weight",)

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(num_users, 4), nn.Embedding(num_items, 4)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return (self.users(users) * self.items(items)).sum(-1)


KINDS = {
    "gmf": {"model": "gmf", "epochs": 8},
    "gmf without histories": {"model": "gmf", "history": "none", "epochs": 8},
    "gmf by adam": {"model": "gmf", "optimizer": "adam", "epochs": 20, "batch_size": 128},
    "mlp": {"model": "mlp", "layers": (8,), "epochs": 4},
    "neumf": {"model": "neumf", "layers": (8,), "epochs": 4},
    "own": {"model": None, "epochs": 20, "batch_size": 128},
    "popularity": {"model": "popularity"},
}


@pytest.fixture(scope="module", params=KINDS)
def rec(request):
    """A model of users who like items of their own parity."""
    settings = {"dim": 8, **KINDS[request.param]}
    if request.param == "popularity":
        del settings["dim"]
    if request.param == "own":
        torch.manual_seed(0)
        settings = {**settings, "model": Dots(60, 40)}
        del settings["dim"]
    return fastncf.fit(checkerboard(), device="cpu", progress=False, **settings)


def test_users_who_tell_their_histories_get_what_they_get_by_their_ids(rec):
    histories = checkerboard().select(pl.col("user") + 100, "item")
    told, known = rec.recommend(history=histories, k=5, exclude_seen=False), rec.recommend(k=5, exclude_seen=False)
    assert told["user"].to_list() == [user + 100 for user in known["user"]]
    by_told, by_known = (float((frame["user"] % 2 == frame["item"] % 2).mean()) for frame in (told, known))
    assert by_told >= by_known - 0.1
    alone = rec.recommend(history=[1, 5, 9, 13, 17, 21], k=5)
    assert alone.columns == ["item", "score", "rank"]
    assert not {1, 5, 9, 13, 17, 21} & set(alone["item"])


def test_users_without_known_items_are_skipped_or_get_popular_items(rec):
    popular = rec.recommend("nobody", k=3, unknown="popular")["item"].to_list()
    for history in ([], [9_999]):
        assert rec.recommend(history=history, k=3, unknown="popular")["item"].to_list() == popular
        assert rec.recommend(history=history, k=3, unknown="skip").height == 0
        with pytest.raises(DataError, match="unknown='skip'"):
            rec.recommend(history=history, k=3)
    frame = pl.DataFrame({"user": ["a", "b", "b"], "item": [9_999, 1, 9_999]})
    assert rec.recommend(history=frame, k=1, unknown="skip")["user"].to_list() == ["b"]
    found = rec.recommend(history=frame, k=3, unknown="popular")
    assert found["user"].to_list() == ["a"] * 3 + ["b"] * 3
    assert found["item"][:3].to_list() == popular


def test_users_all_of_whose_rows_are_left_out_get_popular_items(tmp_path):
    data = checkerboard().with_columns(rating=5)
    rec = fastncf.fit(data, model="popularity", min_rating=3, progress=False)
    frame = pl.DataFrame(
        {
            "user": ["7", "8", "8", "9", None, "NULL"],
            "item": ["", "1", None, "NULL", "2", ""],
            "rating": [5, 5, 5, 5, 5, 5],
        }
    )
    frame = pl.concat([frame, pl.DataFrame({"user": ["6"], "item": ["1"], "rating": [1]})])
    frame.write_csv(tmp_path / "a.csv", quote_style="never")
    frame.head(2).write_parquet(tmp_path / "a.parquet")
    frame.tail(5).write_parquet(tmp_path / "b.parquet")
    for history in (frame, frame.to_pandas(), tmp_path / "a.csv", tmp_path / "*.parquet"):
        found = rec.recommend(history=history, k=1, unknown="popular")
        assert found["user"].to_list() == [6, 7, 8, 9]
        assert rec.recommend(history=history, k=1, unknown="skip")["user"].to_list() == [8]
        copied = copy.deepcopy(rec).update(history, unknown="skip")
        assert len(copied.users) == len(rec.users)


def test_update_takes_new_users_and_changes_no_others(rec):
    own = fastncf.recommender.Recommender(
        **{name: getattr(rec, name) for name in rec.__dataclass_fields__ if name[0] != "_"}
    )
    before = rec.recommend(list(range(2, 60)), k=3)
    own.update(pl.DataFrame({"user": [1, 99, 99], "item": [0, 2, 4]}))
    assert own.data["users"] == len(own.users) == 61
    after = own.recommend(list(range(2, 60)), k=3)
    if "counts" not in dict(rec.model.named_buffers()):
        assert after["item"].equals(before["item"])
    assert not {2, 4} & set(own.recommend(99, k=38)["item"])
    own.update(pl.DataFrame({"user": [77], "item": [9_999]}), unknown="skip")
    with pytest.raises(DataError, match="user 77 is not in"):
        own.recommend(77)


def test_nothing_is_measured_once_an_update_has_taken_all_that_was_held_out(rec):
    own = copy.copy(rec).update(pl.DataFrame({"user": range(60), "item": [user % 2 for user in range(60)]}))
    with pytest.raises(ConfigError, match=r"^evaluate: no held-out item is left, since update\(\) has taken those of"):
        own.evaluate()
    with pytest.raises(ConfigError, match=r"^compare: no held-out item is left in own"):
        fastncf.compare(rec, own, names=["rec", "own"])


def test_a_module_that_names_no_tables_says_so():
    class Plain(Dots):
        user_tables = None

    rec = fastncf.fit(checkerboard(), model=Plain(60, 40), epochs=1, progress=False)
    with pytest.raises(ConfigError, match="a Plain knows its users only by their ids; expected mf, gmf, mlp"):
        rec.recommend(history=[1])


def histories_of_dots() -> tuple:
    """Return the arguments of ``solve_tables`` for a module of 30 users and 25 items, and two new users."""
    generator = np.random.default_rng(3)
    torch.manual_seed(3)
    module, counts = Dots(30, 25), generator.integers(1, 9, 25)
    items = generator.permuted(np.tile(np.arange(25), (2, 1)), axis=1)[:, :7].reshape(-1)
    stage = fastncf.plan_fit(checkerboard(), model="mlp", optimizer="adam", num_negatives=5, negatives="uniform").final
    return module, stage, counts, np.array([0, 3, 10]), np.concatenate([items[:3], items[7:]]).astype(np.int32)


@pytest.mark.parametrize(
    ("noun", "names", "message"),
    [
        ("user", ("nope",), "'nope' is no parameter; expected some of users.weight, items.weight"),
        ("item", ("items",), "'items' is no parameter; expected some of users.weight, items.weight"),
        ("user", "users.weight", r"expected a tuple of names of parameters, such as \('users.weight',\)"),
        ("item", (3,), r"expected a tuple of names of parameters, such as \('items.weight',\)"),
        ("user", ("items.weight",), r"items.weight has the shape \(40, 4\); expected a table with 60 rows at least"),
    ],
)
def test_names_of_tables_that_are_none_are_refused_before_the_training(noun, names, message):
    class Named(Dots):
        """Names tables that it does not have."""

    setattr(Named, f"{noun}_tables", names)
    with pytest.raises(ConfigError, match=rf"^Named\.{noun}_tables=.*: {message}"):
        fastncf.fit(checkerboard(), model=Named(60, 40), device="cpu", progress=False)


def test_a_loaded_module_is_one_and_names_tables_that_it_has(tmp_path):
    class Named(Dots):
        """Names a table that it does not have."""

        user_tables = ("nope",)

    Named.__name__ = "Dots"
    fastncf.fit(checkerboard(), model=Dots(60, 40), epochs=1, device="cpu", progress=False).save(tmp_path / "m")
    for model in (Dots, "Dots"):
        with pytest.raises(ConfigError, match=r"^load: model=.*: expected an nn.Module"):
            fastncf.load(tmp_path / "m", model=model)
    rec = fastncf.load(tmp_path / "m", model=Named(60, 40))
    for call in (lambda: rec.recommend(history=[1]), lambda: rec.update(pl.DataFrame({"user": [1], "item": [2]}))):
        with pytest.raises(ConfigError, match=r"^Dots\.user_tables=\('nope',\): 'nope' is no parameter"):
            call()


def test_users_are_solved_for_in_the_memory_that_is_left(monkeypatch):
    known, sizes, solve = histories_of_dots(), [], module_users._solve
    whole = solve_tables(*known)["users.weight"]
    monkeypatch.setattr(module_users, "_solve", lambda *of: sizes.append(len(of[-1].items)) or solve(*of))
    monkeypatch.setattr(module_users, "available_bytes", lambda: 2 * 40 * 400)  # a pair takes some 300 bytes
    torch.testing.assert_close(solve_tables(*known)["users.weight"], whole)
    assert sizes == [1, 1]
    for at in (memory, module_users):
        monkeypatch.setattr(at, "available_bytes", lambda: 4_000)
    with pytest.raises(InsufficientMemoryError, match=r"user with 3 items, scored beside 25 others: needs .* shorter"):
        solve_tables(*known)


def test_rows_are_solved_for_by_the_adam_of_torch():
    module, stage, counts, indptr, items = histories_of_dots()
    found = solve_tables(module, stage, counts, indptr[:2], items[:3])["users.weight"]
    trained, vectors = module.users.weight.detach(), module.items.weight.detach()
    offset = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([offset], lr=module_users.STEP_SIZE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / module_users.STEPS)
    history = torch.from_numpy(items[:3]).long()
    others = torch.tensor([item for item in range(25) if item not in history])
    for _ in range(module_users.STEPS):
        scores = vectors @ (trained.mean(0) + trained.std(0, correction=0) * offset)
        loss = nn.functional.softplus(-scores[history]).sum() + (offset**2).sum() / 2
        loss = loss + 5 * len(history) * nn.functional.softplus(scores[others]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    row = trained.mean(0) + trained.std(0, correction=0) * offset.detach()
    torch.testing.assert_close(found, row[None], rtol=1e-3, atol=1e-4)


def test_an_update_that_does_not_fit_into_the_memory_is_refused_before_it_begins(monkeypatch):
    rec = fastncf.fit(checkerboard(), model="popularity", progress=False)
    monkeypatch.setattr(memory, "available_bytes", lambda: 10_000)
    with pytest.raises(InsufficientMemoryError, match=r"update: 2 interactions and the [\d,]+ of the model: needs"):
        rec.update(pl.DataFrame({"user": [99, 99], "item": [2, 4]}))


def test_rows_of_users_minimise_the_loss_of_their_histories():
    module, stage, counts, indptr, items = histories_of_dots()
    found = solve_tables(module, stage, counts, indptr, items)["users.weight"].double().numpy()
    trained, vectors = (table.weight.detach().double().numpy() for table in (module.users, module.items))
    mean, deviation = trained.mean(0), trained.std(0)
    generator = np.random.default_rng(4)

    def loss(user: int, row: np.ndarray) -> float:
        history = items[indptr[user] : indptr[user + 1]]
        scores, is_other = vectors @ row, ~np.isin(np.arange(25), history)
        negatives = 5 * len(history) * np.logaddexp(0, scores[is_other]).mean()
        prior = (((row - mean) / deviation) ** 2).sum() / 2
        return float(np.logaddexp(0, -scores[history]).sum() + negatives + prior)

    for user in range(2):
        least = loss(user, found[user])
        for _ in range(50):
            assert least <= loss(user, found[user] + generator.normal(0, 0.2, 4)) + 1e-3
    other = with_tables(module, {"users.weight": torch.zeros(2, 4)})
    assert other.items.weight is module.items.weight
    assert (other.users.weight.shape, module.users.weight.shape) == ((2, 4), (30, 4))


def test_scores_by_popularity_keep_the_order_of_large_and_small_counts():
    counts = np.array([2**24 + 1, 2**24, 2**24 + 2, 0, 5, 5, 1e300, 3e300, 1e-60])
    scores = popularity_factors(counts, 2).item_bias
    assert np.isfinite(scores).all()
    assert (np.sign(np.subtract.outer(scores, scores)) == np.sign(np.subtract.outer(counts, counts))).all()
    assert popularity_factors(np.arange(9.0), 2).item_bias.tolist() == list(range(9))


def walks(starts, turns, lengths):
    """Return a frame of users who walk around a ring of 40 items, upwards (1) or downwards (-1) from a start."""
    rows = [
        (user, (start + turn * step) % 40, step)
        for user, (start, turn, length) in enumerate(zip(starts, turns, lengths, strict=True))
        for step in range(length)
    ]
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


@pytest.fixture(scope="module", params=["mlp", "neumf"])
def walker(request):
    """A pretrained model of users whose next item the set of their items does not tell, but its order does."""
    generator = np.random.default_rng(5)
    frame = walks(generator.integers(0, 40, 300), generator.choice([-1, 1], 300), generator.integers(6, 13, 300))
    sizes = {"dim": 32, "layers": (64, 32)}
    return fastncf.fit(frame, model=request.param, holdout=None, seed=1, progress=False, **sizes)


def share_of_next_items(rec):
    """Return the share of 80 new users who are recommended the item that they would walk to next."""
    starts, turns = np.arange(80) // 2, np.tile([-1, 1], 40)
    found = rec.recommend(history=walks(starts, turns, [8] * 80), k=1)
    return float(((starts + 8 * turns) % 40 == found["item"].to_numpy()).mean())


def test_pretrained_models_keep_what_the_order_of_new_histories_tells(walker, tmp_path):
    assert share_of_next_items(walker) >= 0.9
    walker.save(tmp_path)
    loaded = fastncf.load(tmp_path)
    assert share_of_next_items(loaded) == share_of_next_items(walker)
    loaded.pretrained = None
    assert share_of_next_items(loaded) < 0.7


def test_update_keeps_what_the_order_of_histories_tells(walker):
    rec = copy.copy(walker)
    rec.update(walks([10], [1], [8]).with_columns(user=pl.lit(900)))
    assert rec.recommend(900, k=5)["item"].equals(walker.recommend(history=list(range(10, 18)), k=5)["item"])
    assert rec.recommend(900, k=1)["item"].item() == 18


def test_messages_on_columns_name_no_arguments_that_update_lacks(tmp_path):
    rec = fastncf.fit(checkerboard(), model="popularity")
    tables = {
        "no user": pl.DataFrame({"who": [1], "item": [2]}),
        "two times": pl.DataFrame({"user": [1], "item": [2], "created_at": [1], "ts": [2]}),
        "no time": "1,2,3,881250949\n1,4,3,881250950\n2,4,3,5\n",
        "wide": "1,2,3,4,5\n2,4,3,7,8\n",
    }
    for table in tables.values():
        if isinstance(table, str):
            (tmp_path / "new.csv").write_text(table)
            table = tmp_path / "new.csv"
        for ask in (rec.update, lambda source: rec.recommend(history=source)):
            with pytest.raises(DataError) as error:
                ask(table)
            assert not re.search(r"\b(user|item|time)=", str(error.value)), error.value
