import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastncf import models
from fastncf.models.mf import MF
from fastncf.models.scorers import DotScorer, ModuleScorer, Scorer, make_scorer, score_lists
from tests.stages import make_stage


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(models.names()),
    st.integers(1, 40),
    st.integers(1, 40),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.integers(0, 2**32),
)
@torch.no_grad()
def test_scores_equal_the_models_own(name, dim, mlp_dim, layers, seed):
    """With tables and without."""
    num_users, num_items = 23, 37
    stage = make_stage(model=name, dim=dim, mlp_dim=mlp_dim, layers=tuple(layers))
    model = models.build(stage, num_users, num_items, torch.arange(num_items))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():  # biases are zero in a new model
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    plain, fast, tabulated = ModuleScorer(model.eval()), make_scorer(model), make_scorer(model)
    tabulated.precompute()
    for scorer in (fast, tabulated):
        for rows in (5, 2, 9):  # what is reused from one call to the next must not show
            users = torch.randint(num_users, (rows,), dtype=torch.int32, generator=generator)
            items = torch.randint(num_items, (rows, 7), dtype=torch.int32, generator=generator)
            close = {"rtol": 1e-4, "atol": 1e-4, "check_dtype": False}
            torch.testing.assert_close(scorer.lists(users, items), plain.lists(users, items), **close)
            torch.testing.assert_close(scorer.catalogue(users, num_items), plain.catalogue(users, num_items), **close)


@torch.no_grad()
def test_items_with_equal_vectors_tie_wherever_they_stand():
    model = MF(3, 100, 33, torch.Generator().manual_seed(1))
    model.item_embedding.weight[1:] = model.item_embedding.weight[0]
    scores = make_scorer(model).lists(torch.arange(3), torch.arange(100).expand(3, -1))
    assert (scores == scores[:, :1]).all()


@torch.no_grad()
def test_nan_and_infinity_stay_what_they_are():
    model = MF(1, 3, 20, torch.Generator().manual_seed(1))
    model.item_embedding.weight[1, 7] = torch.nan
    model.item_bias[2] = torch.inf
    user, items = torch.zeros(1, dtype=torch.int32), torch.arange(3, dtype=torch.int32)[None]
    fast, tabulated = make_scorer(model), make_scorer(model)
    tabulated.precompute()
    for scores in (fast.lists(user, items), tabulated.lists(user, items), tabulated.catalogue(user, 3)):
        finite, missing, infinite = scores[0].tolist()
        assert math.isfinite(finite)
        assert math.isnan(missing)
        assert infinite == math.inf


class Reversed(MF):
    """Another ``forward`` than that of the class that it is derived from."""

    def forward(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor:
        return -super().forward(user_ids, item_ids)


class Unscored(nn.Module):
    """A module of a user's own, without a scorer."""

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(num_users, 3), nn.Embedding(num_items, 3)

    def forward(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor:
        return (self.users(user_ids) - self.items(item_ids)).square().sum(-1)


class Scored(Unscored):
    """A module of a user's own, with a scorer of its own."""

    def scorer(self) -> Scorer:
        return DotScorer(self.users.weight, self.items.weight)


@torch.no_grad()
def test_the_scorer_of_a_class_is_used_for_that_class_alone():
    users, items = torch.arange(4, dtype=torch.int32), torch.tensor([[0, 1], [1, 0], [4, 2], [3, 3]], dtype=torch.int32)
    derived = Reversed(4, 5, 4, torch.Generator().manual_seed(0))
    own = Unscored(4, 5)
    scored = Scored(4, 5)
    further = type("Further", (Scored,), {})(4, 5)
    for model in (derived, own, further):
        scorer = make_scorer(model)
        pairs = model(users.repeat_interleave(5), torch.arange(5, dtype=torch.int32).repeat(4)).view(4, 5)
        torch.testing.assert_close(scorer.catalogue(users, 5), pairs)
        torch.testing.assert_close(scorer.lists(users, items), pairs.gather(1, items.long()))
        assert type(scorer) is ModuleScorer
    torch.testing.assert_close(make_scorer(scored).catalogue(users, 5), scored.users.weight @ scored.items.weight.T)


@pytest.mark.parametrize("name", ["mf", "gmf", "mlp", "neumf"])
def test_half_precision_is_scored_too(name):
    model = models.build(make_stage(model=name, dim=8, layers=(8,)), 4, 5, torch.arange(5)).to(torch.bfloat16)
    users = torch.arange(4, dtype=torch.int32)
    with torch.no_grad():
        lists = make_scorer(model).lists(users, torch.arange(5, dtype=torch.int32).expand(4, -1).contiguous())
        torch.testing.assert_close(lists, make_scorer(model).catalogue(users, 5), rtol=0.05, atol=0.05)


def test_the_guess_of_an_unknown_modules_memory_grows_with_its_layers():
    wide = nn.ModuleList([nn.Embedding(3, 500), nn.Sequential(nn.Linear(500, 4096), nn.ReLU(), nn.Linear(4096, 1))])
    assert ModuleScorer(wide).list_bytes() == 8 * (500 + 4096 + 1)
    assert ModuleScorer(Unscored(2, 2)).list_bytes() == 1024
    assert score_lists(Unscored(2, 2), torch.tensor([1]), torch.tensor([[0, 1]])).shape == (1, 2)
