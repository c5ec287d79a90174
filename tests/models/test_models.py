import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastncf import models
from fastncf.errors import ConfigError
from fastncf.kernels.cpu.factors import Factors
from fastncf.models import layers
from fastncf.models.gmf import GMF
from fastncf.models.losses import bce, bpr
from fastncf.models.mf import MF
from fastncf.models.mlp import MLP
from fastncf.models.neumf import NeuMF
from fastncf.models.popularity import Popularity
from fastncf.models.scorers import ModuleScorer, make_scorer, score_lists
from tests.stages import make_stage

USERS, ITEMS = 7, 11


def make(name: str, seed: int = 0) -> nn.Module:
    stage = make_stage(model=name, dim=5, mlp_dim=7, layers=(6, 4), seed=seed)
    return models.build(stage, USERS, ITEMS, torch.arange(ITEMS) * 3)


@torch.no_grad()
def plain_scores(model: nn.Module, user: int, item: int) -> float:
    """The formula of a model for one pair, written as the papers have it."""

    def hidden(x: torch.Tensor) -> torch.Tensor:
        for layer in model.hidden:
            x = F.relu(layer(x))
        return x

    if isinstance(model, Popularity):
        return float(model.counts[item])
    if isinstance(model, NeuMF):
        product = model.gmf_user_embedding.weight[user] * model.gmf_item_embedding.weight[item]
        both = torch.cat([model.mlp_user_embedding.weight[user], model.mlp_item_embedding.weight[item]])
        return float(model.output(torch.cat([product, hidden(both)])))
    p, q = model.user_embedding.weight[user], model.item_embedding.weight[item]
    if isinstance(model, MLP):
        return float(model.output(hidden(torch.cat([p, q]))))
    if isinstance(model, GMF):
        return float(model.output(p * q))
    return float(p @ q + model.user_bias[user] + model.item_bias[item])


@pytest.mark.parametrize("name", models.names())
@torch.no_grad()
def test_every_way_of_scoring_is_the_formula(name):
    model = make(name)
    if isinstance(model, MF):
        nn.init.normal_(model.user_bias)
        nn.init.normal_(model.item_bias)
    users, items = torch.arange(USERS, dtype=torch.int32), torch.arange(ITEMS, dtype=torch.int32)
    expected = torch.tensor([[plain_scores(model, u, i) for i in range(ITEMS)] for u in range(USERS)])
    lists = score_lists(model, users, items.expand(USERS, -1))
    pairs = model(users.repeat_interleave(ITEMS), items.repeat(USERS)).view(USERS, ITEMS)
    for scores in (lists, pairs, make_scorer(model).catalogue(users, ITEMS)):
        assert scores.shape == (USERS, ITEMS)
        torch.testing.assert_close(scores.float(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", models.names())
def test_parameters_depend_on_the_seed_alone(name):
    state = torch.random.get_rng_state()
    first, again = make(name).state_dict(), make(name).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    if name != "popularity":
        assert any(not torch.equal(first[key], value) for key, value in make(name, seed=1).state_dict().items())


@pytest.mark.parametrize("name", sorted(models.names()))
def test_a_model_without_memory_has_the_forms_of_a_built_one(name):
    """A load gives it the arrays that were read: large tables or layers on the CPU would double what it needs."""
    stage = make_stage(model=name, dim=8, layers=(16, 8))
    empty = models.build_empty(stage, 30, 20).state_dict()
    built = models.build(stage, 30, 20, torch.zeros(20, dtype=torch.int64)).state_dict()
    assert {key: (one.shape, one.dtype) for key, one in empty.items()} == {
        key: (one.shape, one.dtype) for key, one in built.items()
    }
    assert all(one.is_meta for key, one in empty.items() if "embedding" in key or "hidden" in key or "output" in key)


def test_linear_layers_start_as_in_torch():
    layer = make("mlp").hidden[0]
    assert layer.weight.abs().max() <= 1 / math.sqrt(10)
    assert layer.weight.abs().max() > 0.9 / math.sqrt(10)


class Own(nn.Module):
    """A user's module: two flat tensors in, one column of scores out."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(USERS, 3), nn.Embedding(ITEMS, 3)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        assert users.shape == items.shape == (len(users),)
        both = torch.cat([self.users(users), self.items(items)], dim=-1)
        return both.sum(-1, keepdim=True)


def test_a_module_of_ones_own_gets_flat_pairs():
    model = Own()
    users, items = torch.tensor([2, 5]), torch.tensor([[0, 1, 2], [3, 4, 5]])
    scores = score_lists(model, users, items)
    expected = model.users(users).sum(-1, keepdim=True) + model.items(items).sum(-1)
    torch.testing.assert_close(scores, expected)
    catalogue = ModuleScorer(model).catalogue(users, ITEMS)
    torch.testing.assert_close(catalogue, score_lists(model, users, torch.arange(ITEMS).expand(2, -1)))


def test_a_module_with_the_wrong_number_of_scores_is_refused():
    class Wrong(nn.Module):
        def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(users), 2)

    with pytest.raises(ConfigError, match="one score for each"):
        score_lists(Wrong(), torch.tensor([1]), torch.tensor([[0, 1]]))


@torch.no_grad()
def test_factors_and_the_models_that_are_made_of_them_score_alike():
    generator = torch.Generator().manual_seed(3)
    shapes = (USERS, 4), (ITEMS, 4), (USERS,), (ITEMS,)
    factors = Factors(*(torch.randn(shape, generator=generator).numpy() for shape in shapes))
    expected = torch.from_numpy(
        factors.user_vectors @ factors.item_vectors.T + factors.user_bias[:, None] + factors.item_bias
    )
    users, items = torch.arange(USERS), torch.arange(ITEMS).expand(USERS, -1)
    for cls in (MF, GMF):
        torch.testing.assert_close(score_lists(cls.from_factors(factors), users, items), expected)
    mf = MF.from_factors(factors)
    assert all(a.ctypes.data == b.ctypes.data for a, b in zip(mf.factors(), factors, strict=True))  # the same memory
    assert torch.equal(
        GMF.from_factors(factors).item_vectors(), torch.from_numpy(factors.item_vectors)
    )  # without biases


@torch.no_grad()
def test_an_mlp_that_starts_from_factors_has_their_vectors():
    generator = torch.Generator().manual_seed(3)
    shapes = (USERS, 4), (ITEMS, 4), (USERS,), (ITEMS,)
    factors = Factors(*(torch.randn(shape, generator=generator).numpy() for shape in shapes))
    mlp = MLP(USERS, ITEMS, 5, (6, 4), generator)
    mlp.start_from(factors, std=2.0)
    for embedding, vectors, bias in zip(
        (mlp.user_embedding, mlp.item_embedding), factors[:2], factors[2:], strict=True
    ):
        expected = torch.column_stack([torch.from_numpy(vectors), torch.from_numpy(bias)])
        ratios = embedding.weight / expected
        torch.testing.assert_close(ratios, ratios[0, 0].expand_as(ratios))
        assert embedding.weight.std(0, correction=0).mean().item() == pytest.approx(2)


@torch.no_grad()
def test_a_neumf_that_joins_two_models_scores_as_they_do():
    gmf, mlp = make("gmf", seed=1), MLP(USERS, ITEMS, 7, (6, 4), torch.Generator().manual_seed(2))
    neumf = make("neumf")
    neumf.join(gmf, mlp, 0.75)
    users, items = torch.arange(USERS).unsqueeze(1), torch.arange(ITEMS).expand(USERS, -1)
    torch.testing.assert_close(neumf(users, items), 0.75 * gmf(users, items) + 0.25 * mlp(users, items))


def test_bce_is_the_mean_over_all_samples():
    positive, negatives = torch.randn(6), torch.randn(6, 4)
    logits = torch.cat([positive.unsqueeze(-1), negatives], dim=1)
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1
    expected = F.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(bce(positive, negatives), expected.double())


def test_bpr_is_the_mean_over_all_pairs():
    positive, negatives = torch.randn(6), torch.randn(6, 4)
    expected = -torch.log(torch.sigmoid(positive[:, None] - negatives)).mean()
    torch.testing.assert_close(bpr(positive, negatives), expected.double())


@pytest.mark.parametrize("loss", [bce, bpr])
def test_losses_stay_finite_for_large_scores(loss):
    assert torch.isfinite(loss(torch.tensor([-500.0]), torch.tensor([[500.0]])))


def test_an_embedding_without_memory_draws_nothing(monkeypatch):
    monkeypatch.setattr(layers.nn.init, "normal_", lambda *_, **__: pytest.fail("it was drawn"))
    with torch.device("meta"):
        assert layers.make_embedding(3, 2, None, 1.0).weight.is_meta
