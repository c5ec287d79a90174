"""The reference step itself against autograd and ``torch.optim.Adam`` in float64."""

import numpy as np
import pytest
import torch

from fastncf.models.gmf import GMF
from fastncf.models.losses import LOSSES
from fastncf.models.mf import MF
from fastncf.models.mlp import MLP
from fastncf.models.neumf import NeuMF
from fastncf.sampling.loader import Batch
from fastncf.trainers.autograd import l2_penalty, score_batch
from tests import reference

NUM_USERS, NUM_ITEMS, B, K = 7, 11, 20, 3

MODULES = {
    "mf": lambda: MF(NUM_USERS, NUM_ITEMS, 5, std=0.5),
    "gmf": lambda: GMF(NUM_USERS, NUM_ITEMS, 5, std=0.5),
    "mlp": lambda: MLP(NUM_USERS, NUM_ITEMS, 5, (8, 4), std=0.5),
    "neumf": lambda: NeuMF(NUM_USERS, NUM_ITEMS, 5, (8, 4), mlp_dim=3, std=0.5),
}


@pytest.mark.parametrize("model", MODULES)
@pytest.mark.parametrize("loss", ["bce", "bpr", "softmax"])
def test_two_steps_of_adam_are_torchs(model, loss):
    module = MODULES[model]().double()
    p = reference.parameters_of(module)
    means, squares = reference.zeros_like(p), reference.zeros_like(p)
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    random = np.random.default_rng()
    for step in (1, 2):
        users, items = random.integers(NUM_USERS, size=B), random.integers(NUM_ITEMS, size=(B, 1 + K))
        value, grads = reference.gradients(model, p, users, items, loss, l2=0.1)
        p, means, squares = reference.adam_step(p, grads, means, squares, step, 0.01)
        batch = Batch(*map(torch.from_numpy, (users, items[:, 0].copy(), items[:, 1:].copy())))
        mean = LOSSES[loss].function(*score_batch(module, batch))
        adam.zero_grad()
        (mean + l2_penalty(module, batch, 0.1)).backward()
        assert value == pytest.approx(mean.item(), rel=1e-12)
        for name, parameter in module.named_parameters():
            np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=1e-9, atol=1e-13, err_msg=name)
        adam.step()
    biases = set() if loss == "bce" else {"user_bias", "output.bias"}  # their gradients are rounding errors around 0
    for name, parameter in module.named_parameters():
        if name not in biases:
            np.testing.assert_allclose(p[name], parameter.detach().numpy(), rtol=1e-7, atol=1e-9, err_msg=name)


def test_dropout_multiplies_activations_by_its_masks():
    module = MLP(NUM_USERS, NUM_ITEMS, 5, (8,), std=0.5).double()
    p, random = reference.parameters_of(module), np.random.default_rng()
    users, items = random.integers(NUM_USERS, size=B), random.integers(NUM_ITEMS, size=(B, 1 + K))
    mask = 2.0 * random.integers(2, size=(B, 1 + K, 8))
    _, grads = reference.gradients("mlp", p, users, items, "bce", masks=[mask])
    x = torch.cat(
        [
            module.user_embedding(torch.from_numpy(users))[:, None].expand(-1, 1 + K, -1),
            module.item_embedding(torch.from_numpy(items)),
        ],
        dim=-1,
    )
    scores = module.output(torch.relu(module.hidden[0](x)) * torch.from_numpy(mask)).squeeze(-1)
    LOSSES["bce"].function(scores[:, 0], scores[:, 1:]).backward()
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=1e-9, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_a_step_of_sgd_multiplies_the_gradient_of_the_sum(loss):
    """With the formulas of the sum written out: a repeated negative counts twice."""
    module = MF(NUM_USERS, NUM_ITEMS, 5, std=0.5)
    p = reference.parameters_of(module)
    items = np.array([4, 2, 2, 7])
    new = reference.sgd_step("mf", p, 3, items, loss, l2=0.1, learning_rate=0.2)
    user, item = p["user_embedding.weight"][3], p["item_embedding.weight"][items]
    scores = item @ user + p["user_bias"][3] + p["item_bias"][items]
    if loss == "bce":
        slopes = 1 / (1 + np.exp(-scores)) - np.array([1, 0, 0, 0])
    else:
        slopes = 1 / (1 + np.exp(scores[0] - scores))
        slopes[0] = -slopes[1:].sum()
    shrink = 2 * 0.2 * 0.1 * (4 if loss == "bce" else 3)
    np.testing.assert_allclose(new["user_embedding.weight"][3], (1 - shrink) * user - 0.2 * slopes @ item)
    expected = (1 - 2 * shrink / 4) * item[1] - 0.2 * (slopes[1] + slopes[2]) * user
    np.testing.assert_allclose(new["item_embedding.weight"][2], expected)
    np.testing.assert_allclose(new["user_bias"][3], p["user_bias"][3] - 0.2 * slopes.sum(), atol=1e-12)
    np.testing.assert_allclose(new["item_bias"][2], p["item_bias"][2] - 0.2 * (slopes[1] + slopes[2]))
    np.testing.assert_array_equal(new["item_embedding.weight"][[0, 1, 3]], p["item_embedding.weight"][[0, 1, 3]])
