import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from safetensors.torch import load_file
from torch import nn

import fastncf
from fastncf.errors import ConfigError, DataError
from fastncf.evaluation import scoring
from fastncf.kernels.cpu.factors import Factors
from tests.conftest import checkerboard

SMALL = {"dim": 4, "epochs": 2, "num_negatives": 2}
pytestmark = pytest.mark.filterwarnings("ignore::fastncf.UnusedSettingWarning")  # the same settings for all models


def ratings(text: bool) -> pl.DataFrame:
    """The checkerboard with raw ids that are not contiguous, as integers or as text."""
    data = checkerboard(num_users=20, num_items=14, hidden=2)
    if text:
        return data.with_columns(pl.format("u-{}", "user").alias("user"), pl.format("i {}", "item").alias("item"))
    return data.with_columns(pl.col("user") * 10 - 50, pl.col("item") * 3 + 2**40)


@pytest.fixture(scope="module", params=[False, True], ids=["integers", "text"])
def rec(request):
    return fastncf.fit(ratings(request.param), validation=True, **SMALL)


def seen(rec, user) -> set:
    code = rec.users.require(user)[0]
    indptr, indices = rec.split.seen()
    return set(rec.items.decode(indices[indptr[code] : indptr[code + 1]]).to_list())


def test_recommend_is_the_best_of_the_unseen(rec):
    users = rec.users.ids.to_list()[3:6]
    top = rec.recommend(users, k=4)
    assert top.columns == ["user", "item", "score", "rank"]
    assert top["user"].to_list() == [user for user in users for _ in range(4)]
    assert top["rank"].to_list() == [1, 2, 3, 4] * 3
    for user in users:
        unseen = [item for item in rec.items.ids if item not in seen(rec, user)]
        scores = rec.score([user] * len(unseen), unseen).sort("score", descending=True, maintain_order=True)
        mine = top.filter(pl.col("user") == user)
        assert mine["item"].to_list() == scores["item"].to_list()[:4]
        np.testing.assert_allclose(mine["score"], scores["score"][:4], rtol=1e-5)


def test_recommend_one_user_and_with_seen_items(rec):
    user = rec.users.ids[0]
    everything = rec.recommend(user, k=100, exclude_seen=False)
    assert set(everything["item"]) == set(rec.items.ids)
    assert everything["score"].is_sorted(descending=True)


def test_fewer_rows_where_fewer_items_are_left(rec):
    user = rec.users.ids[0]
    few = rec.recommend([user], k=100)
    assert few["rank"].to_list() == list(range(1, len(rec.items) - len(seen(rec, user)) + 1))
    assert not set(few["item"]) & seen(rec, user)


def test_chunks_of_users_do_not_matter(rec, monkeypatch):
    users = rec.users.ids.to_list()
    whole = rec.recommend(users, k=3)
    monkeypatch.setattr(scoring, "chunk_bytes", lambda device: 1)
    for same in (users, np.array(users), rec.users.ids):
        assert_frame_equal(rec.recommend(same, k=3), whole, rel_tol=1e-4, abs_tol=1e-5)


def test_no_users_give_an_empty_frame_of_the_same_columns(rec):
    empty = rec.recommend(rec.users.ids.head(0), k=3)
    assert empty.height == 0
    assert empty.schema == rec.recommend(rec.users.ids[0], k=3).schema


def test_ties_come_in_the_order_of_the_ids():
    data = ratings(text=False)
    rec = fastncf.fit(data, model="popularity")
    top = rec.recommend(rec.users.ids[0], k=14, exclude_seen=False)
    expected = top.sort(["score", "item"], descending=[True, False])
    assert top["item"].to_list() == expected["item"].to_list()


class Broken(nn.Module):
    """No score for the item 5, the lowest one for the item 4."""

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return torch.where(items == 5, torch.nan, torch.where(items == 4, -torch.inf, items.float()))


def test_nan_scores_are_never_recommended_first():
    rec = fastncf.fit(ratings(text=False), model="popularity")
    rec.model = Broken()
    top = rec.recommend(rec.users.ids[0], k=14, exclude_seen=False)
    assert top["item"][0] == rec.items.ids[13]
    assert top["item"][-2:].to_list() == [rec.items.ids[4], rec.items.ids[5]]


def test_no_seen_item_takes_the_place_of_one_without_a_score():
    rec = fastncf.fit(ratings(text=False), model="popularity")
    rec.model = Broken()
    for user in rec.users.ids:
        top = rec.recommend(user, k=14)
        assert not set(top["item"]) & seen(rec, user)
        assert top.height == len(rec.items) - len(seen(rec, user))


def test_similar_items_by_cosine(rec):
    item = rec.items.ids[2]
    similar = rec.similar_items(item, k=5)
    assert similar.columns == ["item", "similar_item", "score", "rank"]
    vectors = rec.model.item_embedding.weight.detach()
    cosine = nn.functional.cosine_similarity(vectors[2:3], vectors)
    cosine[2] = -2
    best = cosine.argsort(descending=True)[:5]
    assert similar["similar_item"].to_list() == rec.items.decode(best.numpy()).to_list()
    np.testing.assert_allclose(similar["score"], cosine[best], rtol=1e-4, atol=1e-5)
    assert rec.similar_items([item, rec.items.ids[3]], k=100).height == 2 * (len(rec.items) - 1)


@pytest.mark.parametrize("model", ["gmf", "mlp", "neumf"])
def test_every_model_with_vectors_has_similar_items(model):
    rec = fastncf.fit(ratings(text=False), model=model, **(SMALL | {"epochs": 1}))
    assert rec.similar_items(rec.items.ids[0], k=3).height == 3


def test_unknown_ids_and_wrong_calls_are_named(rec):
    user, item = rec.users.ids[0], rec.items.ids[0]
    stranger = "nobody" if isinstance(user, str) else 12345
    with pytest.raises(DataError, match=f"user {stranger!r} is not in the training data"):
        rec.recommend([user, stranger])
    with pytest.raises(DataError, match=r"item .* is not in the training data"):
        rec.similar_items(stranger)
    with pytest.raises(DataError, match=r"users and items must have equal length \(2 and 1\)"):
        rec.score([user, user], [item])
    for call in (lambda: rec.recommend(user, k=0), lambda: rec.similar_items(item, k=0), lambda: rec.evaluate(k=0)):
        with pytest.raises(ConfigError, match="k=0"):
            call()
    with pytest.raises(ConfigError, match="num_candidates=0"):
        rec.evaluate(num_candidates=0)


def test_integer_ids_may_be_given_as_text_and_words_not():
    rec = fastncf.fit(ratings(text=False), model="popularity")
    assert rec.recommend("-50", k=1).equals(rec.recommend(-50, k=1))
    with pytest.raises(DataError, match="user 'word' is not in the training data"):
        rec.recommend("word")


def test_popularity_has_no_vectors():
    rec = fastncf.fit(ratings(text=False), model="popularity")
    with pytest.raises(ConfigError, match="item_vectors"):
        rec.similar_items(rec.items.ids[0])


@pytest.mark.parametrize("model", ["mf", "gmf", "mlp", "neumf", "popularity"])
@pytest.mark.parametrize("text", [False, True])
def test_round_trip(tmp_path, model, text):
    rec = fastncf.fit(ratings(text), model=model, full_ranking=True, **SMALL)
    rec.save(tmp_path / "deep" / "model")
    again = fastncf.load(tmp_path / "deep" / "model")
    users = rec.users.ids.to_list()
    assert again.recommend(users, k=5).equals(rec.recommend(users, k=5))
    assert again.evaluate() == (rec.metrics, rec.protocol)
    for name in ("config", "metrics", "protocol", "data", "seconds", "training_log", "found", "plan"):
        assert getattr(again, name) == getattr(rec, name)
    assert sorted(path.suffix for path in (tmp_path / "deep" / "model").iterdir()) == [
        ".json",
        ".safetensors",
        ".safetensors",
    ]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]


def test_factors_are_the_module_that_is_made_of_them(tmp_path):
    rec = fastncf.fit(checkerboard(), dim=8, epochs=3)
    assert isinstance(rec.trained, Factors)
    found = rec.evaluate(k=3)
    rec.save(tmp_path / "factors")
    assert rec.metrics == fastncf.load(tmp_path / "factors").metrics
    assert rec.model is rec.model
    assert not rec.model.training
    assert rec.evaluate(k=3) == found
    rec.save(tmp_path / "module")
    for role in ("model", "data"):
        saved = [load_file(next((tmp_path / folder).glob(f"fastncf-{role}-*"))) for folder in ("factors", "module")]
        assert list(saved[0]) == list(saved[1])
        assert all(torch.equal(value, saved[1][key]) for key, value in saved[0].items())
    assert fastncf.load(tmp_path / "factors").evaluate(k=3) == found


def test_evaluate_with_another_protocol(rec):
    other = rec.evaluate(k=5, num_candidates=3, full_ranking=True)
    assert set(other.metrics) == {"hr@5", "ndcg@5", "mrr", "full/hr@5", "full/ndcg@5", "full/mrr"}
    assert "1 + 3 candidates drawn uniformly without" in other.protocol
    assert rec.evaluate().metrics == rec.metrics
