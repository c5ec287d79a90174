"""One whole training step of each model in NumPy float64, written as the papers write it.

The trainers compute the same step by Numba, Triton or autograd; their tests compare with what stands here.

- models: Koren et al. 2009, "Matrix factorization techniques for recommender systems" (``mf``); He et al. 2017, "Neural
  collaborative filtering" (``gmf``, ``mlp``, ``neumf``)
- losses: He et al. 2017, eq. 7 (``bce``); Rendle et al. 2009, "BPR: Bayesian personalized ranking" (``bpr``)
- optimizers: Kingma and Ba 2015, "Adam"; stochastic gradient descent by interaction

Shape letters: U users, I items, B interactions in a batch, K negatives of each interaction, C = 1 + K samples of each
interaction with the positive first, D length of a vector, H width of a hidden layer. ``users`` is (B,) and ``items`` is
(B, C), both integers. Parameters and their gradients are dicts of float64 arrays, named as in ``module.state_dict()``.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from fastncf.sampling.loader import EpochLoader

Parameters = dict[str, np.ndarray]
Masks = Sequence[np.ndarray]
"""Of each hidden layer (B, C, H): what dropout multiplies its activations by, 0 or 1 / (1 - probability)."""


def parameters_of(module: nn.Module) -> Parameters:
    """Return float64 copies of the parameters of a module."""
    return {name: tensor.detach().cpu().double().numpy().copy() for name, tensor in module.named_parameters()}


def batches(loader: EpochLoader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield users (B,) and items (B, C) of each batch of the epoch that is loaded."""
    user, positive, negatives = (t.cpu().numpy() for t in (loader.user, loader.positive, loader.negatives))
    items = np.column_stack([positive, negatives])
    for indices in loader.batch_indices():
        index = indices.cpu().numpy()
        yield user[index], items[index]


# Models: scores (B, C) of the samples, and the gradients of the sum of grad_scores * scores.


def mf_forward(p: Parameters, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return p_u . q_i + b_u + b_i (Koren et al. 2009, eq. 4, without the global mean)."""
    user, item = p["user_embedding.weight"][users], p["item_embedding.weight"][items]
    return np.einsum("bd,bcd->bc", user, item) + p["user_bias"][users, None] + p["item_bias"][items]


def mf_backward(p: Parameters, users: np.ndarray, items: np.ndarray, grad_scores: np.ndarray) -> Parameters:
    user, item = p["user_embedding.weight"][users], p["item_embedding.weight"][items]
    return {
        "user_embedding.weight": scatter(len(p["user_bias"]), users, np.einsum("bc,bcd->bd", grad_scores, item)),
        "item_embedding.weight": scatter(len(p["item_bias"]), items, np.einsum("bc,bd->bcd", grad_scores, user)),
        "user_bias": scatter(len(p["user_bias"]), users, grad_scores.sum(1)),
        "item_bias": scatter(len(p["item_bias"]), items, grad_scores),
    }


def gmf_forward(p: Parameters, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return h . (p_u * q_i) + b (He et al. 2017, eq. 8 and 9)."""
    product = p["user_embedding.weight"][users][:, None] * p["item_embedding.weight"][items]
    return product @ p["output.weight"][0] + p["output.bias"]


def gmf_backward(p: Parameters, users: np.ndarray, items: np.ndarray, grad_scores: np.ndarray) -> Parameters:
    product = p["user_embedding.weight"][users][:, None] * p["item_embedding.weight"][items]
    grads = product_backward(p, "", users, items, grad_scores[..., None] * p["output.weight"][0])
    return grads | output_backward(product, grad_scores)


def mlp_forward(p: Parameters, users: np.ndarray, items: np.ndarray, masks: Masks | None = None) -> np.ndarray:
    """Return h . x_L + b for the hidden layers x_1 to x_L over [p_u, q_i] (He et al. 2017, eq. 10)."""
    return hidden_forward(p, "", users, items, masks)[-1] @ p["output.weight"][0] + p["output.bias"]


def mlp_backward(
    p: Parameters, users: np.ndarray, items: np.ndarray, grad_scores: np.ndarray, masks: Masks | None = None
) -> Parameters:
    x = hidden_forward(p, "", users, items, masks)
    grads = hidden_backward(p, "", users, items, x, grad_scores[..., None] * p["output.weight"][0], masks)
    return grads | output_backward(x[-1], grad_scores)


def neumf_forward(p: Parameters, users: np.ndarray, items: np.ndarray, masks: Masks | None = None) -> np.ndarray:
    """Return h . [p_u^G * q_i^G, x_L] + b, where the vectors of GMF and MLP differ (He et al. 2017, eq. 12)."""
    product = p["gmf_user_embedding.weight"][users][:, None] * p["gmf_item_embedding.weight"][items]
    top = hidden_forward(p, "mlp_", users, items, masks)[-1]
    return np.concatenate([product, top], axis=-1) @ p["output.weight"][0] + p["output.bias"]


def neumf_backward(
    p: Parameters, users: np.ndarray, items: np.ndarray, grad_scores: np.ndarray, masks: Masks | None = None
) -> Parameters:
    product = p["gmf_user_embedding.weight"][users][:, None] * p["gmf_item_embedding.weight"][items]
    x = hidden_forward(p, "mlp_", users, items, masks)
    grad_product, grad_top = np.split(grad_scores[..., None] * p["output.weight"][0], [product.shape[-1]], axis=-1)
    grads = product_backward(p, "gmf_", users, items, grad_product)
    grads |= hidden_backward(p, "mlp_", users, items, x, grad_top, masks)
    return grads | output_backward(np.concatenate([product, x[-1]], axis=-1), grad_scores)


MODELS = {
    "mf": (mf_forward, mf_backward),
    "gmf": (gmf_forward, gmf_backward),
    "mlp": (mlp_forward, mlp_backward),
    "neumf": (neumf_forward, neumf_backward),
}
"""Forward and backward of each model by its registered name."""


def product_backward(
    p: Parameters, prefix: str, users: np.ndarray, items: np.ndarray, grad_product: np.ndarray
) -> Parameters:
    """Return the gradients of both tables from those of the products p_u * q_i (B, C, D)."""
    names = f"{prefix}user_embedding.weight", f"{prefix}item_embedding.weight"
    user, item = p[names[0]][users], p[names[1]][items]
    return {
        names[0]: scatter(len(p[names[0]]), users, (grad_product * item).sum(1)),
        names[1]: scatter(len(p[names[1]]), items, grad_product * user[:, None]),
    }


def output_backward(x: np.ndarray, grad_scores: np.ndarray) -> Parameters:
    """Return the gradients of the output layer over the inputs x (B, C, H)."""
    return {"output.weight": np.einsum("bc,bch->h", grad_scores, x)[None], "output.bias": grad_scores.sum()[None]}


def num_layers(p: Parameters) -> int:
    """Return L, the number of hidden layers."""
    return sum(name.startswith("hidden.") and name.endswith(".weight") for name in p)


def preactivations(p: Parameters, layer: int, x: np.ndarray) -> np.ndarray:
    """Return W x + b (B, C, H) of a hidden layer over its inputs x."""
    return x @ p[f"hidden.{layer}.weight"].T + p[f"hidden.{layer}.bias"]


def hidden_forward(
    p: Parameters, prefix: str, users: np.ndarray, items: np.ndarray, masks: Masks | None
) -> list[np.ndarray]:
    """Return x_0 = [p_u, q_i] and the activations x_l = ReLU(W_l x_(l-1) + b_l) * mask_l, each (B, C, width)."""
    user, item = p[f"{prefix}user_embedding.weight"][users], p[f"{prefix}item_embedding.weight"][items]
    x = [np.concatenate([np.broadcast_to(user[:, None], (*items.shape, user.shape[-1])), item], axis=-1)]
    for layer in range(num_layers(p)):
        x.append(np.maximum(preactivations(p, layer, x[-1]), 0) * (1 if masks is None else masks[layer]))
    return x


def hidden_backward(
    p: Parameters,
    prefix: str,
    users: np.ndarray,
    items: np.ndarray,
    x: list[np.ndarray],
    grad_top: np.ndarray,
    masks: Masks | None,
) -> Parameters:
    """Return the gradients of the hidden layers and of both tables.

    Args:
        p, prefix, users, items, masks: as for :func:`hidden_forward`.
        x: what that returned.
        grad_top: (B, C, H) gradient of the last activations.
    """
    grads: Parameters = {}
    grad_x = grad_top
    for layer in reversed(range(num_layers(p))):
        grad_z = np.where(x[layer + 1] > 0, grad_x * (1 if masks is None else masks[layer]), 0)
        grads[f"hidden.{layer}.weight"] = np.einsum("bch,bcd->hd", grad_z, x[layer])
        grads[f"hidden.{layer}.bias"] = grad_z.sum((0, 1))
        grad_x = grad_z @ p[f"hidden.{layer}.weight"]
    names = f"{prefix}user_embedding.weight", f"{prefix}item_embedding.weight"
    grad_user, grad_item = np.split(grad_x, [p[names[0]].shape[1]], axis=-1)
    grads[names[0]] = scatter(len(p[names[0]]), users, grad_user.sum(1))
    grads[names[1]] = scatter(len(p[names[1]]), items, grad_item)
    return grads


def scatter(size: int, index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return (size, ...) zeros to which ``values`` (*index.shape, ...) were added at ``index``, repeated ones too."""
    total = np.zeros((size, *values.shape[index.ndim :]))
    np.add.at(total, index, values)
    return total


# Losses: the mean over all terms of a batch, and its gradient (B, C) with respect to the scores (B, C).


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def bce(scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean binary cross entropy of labels 1 for positives and 0 for negatives (He et al. 2017, eq. 7)."""
    labels = np.zeros_like(scores)
    labels[:, 0] = 1
    entropy = np.logaddexp(0, scores) - labels * scores
    return float(entropy.mean()), (sigmoid(scores) - labels) / scores.size


def bpr(scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean of -log sigmoid(positive - negative) over all pairs (Rendle et al. 2009, BPR-Opt)."""
    margins = scores[:, 1:] - scores[:, :1]
    grad_margins = sigmoid(margins) / margins.size
    grad_scores = np.concatenate([-grad_margins.sum(1, keepdims=True), grad_margins], axis=1)
    return float(np.logaddexp(0, margins).mean()), grad_scores


def softmax(scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean cross entropy of the positives by softmax over the samples (Jean et al. 2015, section 3)."""
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    grad_scores = shares.copy()
    grad_scores[:, 0] -= 1
    return float(-np.log(shares[:, 0]).mean()), grad_scores / len(scores)


LOSSES = {"bce": bce, "bpr": bpr, "softmax": softmax}
"""Each loss by its name."""


def num_terms(loss: str, num_negatives: int) -> int:
    """Return the number of terms of one interaction: its samples, or its pairs."""
    return num_negatives if loss == "bpr" else 1 + num_negatives


def l2_backward(p: Parameters, users: np.ndarray, items: np.ndarray, l2: float) -> Parameters:
    """Return the gradients of l2 times the mean squared norm of the embedding vectors of a batch.

    The mean over B vectors of users plus the mean over B * C vectors of items, for each pair of tables; biases and
    layers have no such term.
    """
    grads = {}
    for name in p:
        if name.endswith("embedding.weight"):
            index = users if "user" in name else items
            grads[name] = scatter(len(p[name]), index, 2 * l2 / index.size * p[name][index])
    return grads


# Steps.


def gradients(
    model: str,
    p: Parameters,
    users: np.ndarray,
    items: np.ndarray,
    loss: str,
    l2: float = 0.0,
    masks: Masks | None = None,
    weights: np.ndarray | None = None,
) -> tuple[float, Parameters]:
    """Return the mean loss of a batch, without the l2 term, and the gradients of the loss plus the l2 term.

    Args:
        model: registered name.
        p: parameters.
        users: (B,).
        items: (B, C), the positive first.
        loss: name of the loss.
        l2: weight of :func:`l2_backward`.
        masks: of the dropout, see ``Masks``; None without dropout.
        weights: (B,) what the loss of each interaction is multiplied by.
    """
    forward, backward = MODELS[model]
    more = () if masks is None else (masks,)
    scores = forward(p, users, items, *more)
    value, grad_scores = LOSSES[loss](scores)
    if weights is not None:
        each = [LOSSES[loss](row[None]) for row in scores]
        value = float(np.mean([weight * one for weight, (one, _) in zip(weights, each, strict=True)]))
        grad_scores = np.concatenate([grad for _, grad in each]) * weights[:, None] / len(weights)
    grads = backward(p, users, items, grad_scores, *more)
    for name, grad in l2_backward(p, users, items, l2).items():
        grads[name] = grads[name] + grad
    return value, grads


def adam_step(
    p: Parameters, grads: Parameters, means: Parameters, squares: Parameters, step: int, learning_rate: float
) -> tuple[Parameters, Parameters, Parameters]:
    """Return parameters, first and second moments after step ``step``, from 1 (Kingma and Ba 2015, algorithm 1).

    beta_1 = 0.9, beta_2 = 0.999 and epsilon = 1e-8; before the first step both moments are 0.
    """
    new_p, new_means, new_squares = {}, {}, {}
    for name, grad in grads.items():
        new_means[name] = 0.9 * means[name] + 0.1 * grad
        new_squares[name] = 0.999 * squares[name] + 0.001 * grad**2
        mean, square = new_means[name] / (1 - 0.9**step), new_squares[name] / (1 - 0.999**step)
        new_p[name] = p[name] - learning_rate * mean / (np.sqrt(square) + 1e-8)
    return new_p, new_means, new_squares


def zeros_like(p: Parameters) -> Parameters:
    """Return zeros for each parameter: the moments of :func:`adam_step` before the first step."""
    return {name: np.zeros_like(array) for name, array in p.items()}


def sgd_step(
    model: str, p: Parameters, user: int, items: np.ndarray, loss: str, l2: float, learning_rate: float
) -> Parameters:
    """Return the parameters after one step of stochastic gradient descent over one interaction.

    ``learning_rate`` multiplies the gradient of the *sum* of the interaction's terms, not of their mean: 1 + K terms
    under ``bce``, K under ``bpr``. The l2 term is multiplied by that number too, so that the objective is the one of
    :func:`gradients` for a batch of one. An item that is drawn more than once counts as often in both.

    Args:
        model: registered name.
        p: parameters.
        user: the user's index.
        items: (C,), the positive first.
        loss: name of the loss.
        l2: weight of the mean squared norms of the embedding vectors.
        learning_rate: step size.
    """
    _, grads = gradients(model, p, np.array([user]), items[None], loss, l2)
    rate = learning_rate * num_terms(loss, len(items) - 1)
    return {name: p[name] - rate * grads[name] for name in p}
