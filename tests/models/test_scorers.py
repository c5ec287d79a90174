import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastncf.config import MODELS, Config
from fastncf.models import build
from fastncf.models.mf import MF
from fastncf.models.scorers import score_catalogue, score_lists, scorer


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.integers(1, 40),
    st.integers(1, 40),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.integers(0, 2**32),
)
@torch.no_grad()
def test_scores_equal_the_models_own(name, dim, mlp_dim, layers, seed):
    num_users, num_items = 23, 37
    config = Config(model=name, dim=dim, mlp_dim=mlp_dim if name == "neumf" else None, layers=tuple(layers))
    model = build(config, num_users, num_items, torch.arange(num_items))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():  # biases are zero in a new model
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    fast = scorer(model.eval())
    for rows in (5, 2, 9):  # what is reused from one call to the next must not show
        users = torch.randint(num_users, (rows,), dtype=torch.int32, generator=generator)
        items = torch.randint(num_items, (rows, 7), dtype=torch.int32, generator=generator)
        close = {"rtol": 1e-4, "atol": 1e-4, "check_dtype": False}
        torch.testing.assert_close(fast.lists(users, items), score_lists(model, users, items), **close)
        torch.testing.assert_close(fast.catalogue(users, num_items), score_catalogue(model, users, num_items), **close)


@torch.no_grad()
def test_items_with_equal_vectors_tie_wherever_they_stand():
    model = MF(3, 100, 33, torch.Generator().manual_seed(1))
    model.item_embedding.weight[1:] = model.item_embedding.weight[0]
    scores = scorer(model).lists(torch.arange(3), torch.arange(100).expand(3, -1))
    assert (scores == scores[:, :1]).all()


@torch.no_grad()
def test_nan_and_infinity_stay_what_they_are():
    model = MF(1, 3, 20, torch.Generator().manual_seed(1))
    model.item_embedding.weight[1, 7] = torch.nan
    model.item_bias[2] = torch.inf
    lists = scorer(model).lists(torch.zeros(1, dtype=torch.int32), torch.arange(3, dtype=torch.int32)[None])
    finite, missing, infinite = lists[0].tolist()
    assert math.isfinite(finite)
    assert math.isnan(missing)
    assert infinite == math.inf


def test_a_class_derived_from_a_model_is_called_as_it_is():
    class Reversed(MF):
        def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
            return -super().forward(users, items)

    users, items = torch.tensor([0, 1]), torch.tensor([[0, 1], [1, 0]])
    model = Reversed(2, 2, 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(scorer(model).lists(users, items), model(users.unsqueeze(-1), items))


@pytest.mark.parametrize("name", ["mf", "gmf", "mlp", "neumf"])
def test_half_precision_is_scored_too(name):
    model = build(Config(model=name, dim=8, layers=(8,)), 4, 5, torch.arange(5)).to(torch.bfloat16)
    users = torch.arange(4, dtype=torch.int32)
    with torch.no_grad():
        lists = scorer(model).lists(users, torch.arange(5, dtype=torch.int32).expand(4, -1).contiguous())
        torch.testing.assert_close(lists, scorer(model).catalogue(users, 5), rtol=0.05, atol=0.05)
