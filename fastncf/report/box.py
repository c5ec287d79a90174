"""The box in which a reader picks items: what the script of a page needs to answer as ``recommend(history=)`` does."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.models.pretrained import Pretrained
from fastncf.report.tables import PackedTables, pack_tables, to_base64
from fastncf.serving import module_users, solving

if TYPE_CHECKING:
    from torch import nn

MAX_BYTES = 2_000_000
"""Bytes of the vectors of items in a page; base64 makes four thirds of them."""


class ByHistory(NamedTuple):
    """Factors, of a model or of its first stage, and how they give a history its user's vector and bias.

    Attributes:
        item_vectors: (I, D) float32.
        item_bias: (I,) float32.
        encoder: encoder of histories, or None.
        fixed: what users are solved for against; None where they are not.
    """

    item_vectors: np.ndarray
    item_bias: np.ndarray
    encoder: HistoryEncoder | None
    fixed: solving.FixedItems | None


class Solving(NamedTuple):
    """Numbers by which the rows of a user in a module are solved for, see :mod:`fastncf.serving.module_users`.

    Attributes:
        num_negatives: K, negatives of an interaction in training.
        sampled: (S,) int64, items that stand for the negatives.
        shares: (S,) float64, the shares of the negatives that they stand for.
        means, deviations: (E,) of the trained users' rows, for each table.
    """

    num_negatives: int
    sampled: np.ndarray
    shares: np.ndarray
    means: list[np.ndarray]
    deviations: list[np.ndarray]


class Network(NamedTuple):
    """A ``mlp`` or ``neumf``: its items, its layers, and the way to a user's rows.

    Attributes:
        items: tables (I, E) float32: of the GMF part, if there is one, and of the MLP part.
        layers: weights (H, G) and biases (H,) of each hidden layer.
        output: weights of the GMF part and of the last hidden layer, and the bias.
        way: the maps from a user of the first model to rows, or how the rows are solved for.
    """

    items: list[np.ndarray]
    layers: list[tuple[np.ndarray, np.ndarray]]
    output: tuple[np.ndarray, float]
    way: Pretrained | Solving


def network_of(module: "nn.Module", way: Pretrained | Solving) -> Network:
    """Return the arrays of a module that :func:`is_network` accepts, with the way to a user's rows."""
    arrays = {name: tensor.detach().float().cpu().numpy() for name, tensor in module.named_parameters()}
    tables = [arrays[name] for name in module.item_tables]  # type: ignore[union-attr]
    names = [f"hidden.{number}" for number in range(len(module.hidden))]  # type: ignore[arg-type]
    layers = [(arrays[f"{name}.weight"], arrays[f"{name}.bias"]) for name in names]
    return Network(tables, layers, (arrays["output.weight"][0], float(arrays["output.bias"][0])), way)


def is_network(module: "nn.Module") -> bool:
    """Return whether the script of a page computes the scores of a module: an ``mlp`` or ``neumf`` as it is."""
    from fastncf.models.mlp import MLP
    from fastncf.models.neumf import NeuMF
    from fastncf.models.scorers import changed_forward

    return type(module) in (MLP, NeuMF) and changed_forward(module) is None


def solving_of(module: "nn.Module", stage: Any, item_counts: np.ndarray) -> Solving:
    """Return how the rows of new users are solved for in a module, see :func:`module_users.solve_tables`.

    Args:
        module: has tables of users.
        stage: what it was trained by.
        item_counts: (I,) int64, training interactions of each item.
    """
    parameters = dict(module.named_parameters())
    tables = [parameters[name].detach() for name in module_users.table_names(module) or ()]
    sampled, shares = solving.negatives_of(
        stage.negatives, stage.negatives_exponent, item_counts, module_users.NUM_NEGATIVES
    )
    means = [table.mean(0).cpu().numpy() for table in tables]
    deviations = [module_users.deviations_of(table).cpu().numpy() for table in tables]
    return Solving(stage.num_negatives, sampled, shares, means, deviations)


def pack_box(
    counts: np.ndarray, by_history: ByHistory | None, network: Network | None, max_bytes: int
) -> tuple[PackedTables, dict[str, Any]]:
    """Return which items a page holds, and what its script computes recommendations of.

    Args:
        counts: (I,) interactions of each item.
        by_history: factors that give a user a vector; None where the rows of a module are solved for.
        network: the module, where the model is one.
        max_bytes: bytes of the vectors of all items.
    """
    tables, needed = [], np.zeros(0, dtype=np.int64)
    if by_history is not None:
        output = by_history.item_vectors[:, None]
        encoder, needed = by_history.encoder, needed if by_history.fixed is None else by_history.fixed.sampled
        tables.append(output if encoder is None else np.concatenate([encoder.feature_vectors(), output], axis=1))
    if network is not None:
        tables += [table[: len(counts), None] for table in network.items]
        if isinstance(network.way, Solving):
            needed = network.way.sampled
    packed = pack_tables(tables, counts, max_bytes, needed)
    data = list(packed.data)
    box: dict[str, Any] = {"network": None}
    if by_history is not None:
        box |= {"vectors": data.pop(0), **_history_data(by_history, packed.items)}
    if network is not None:
        box["network"] = {"items": data, **_network_data(network, packed.items)}
    return packed, box


def _history_data(by_history: ByHistory, items: np.ndarray) -> dict[str, Any]:
    """Return what the script needs beside the vectors of the n items of a page, ascending."""
    encoder, fixed = by_history.encoder, by_history.fixed
    return {
        "bias": to_base64(by_history.item_bias[items].astype("<f4")),
        "encoder": {
            "gains": [] if encoder is None else encoder.gains.tolist(),
            "decays": [] if encoder is None else encoder.decays.tolist(),
            "isMean": [] if encoder is None else encoder.is_mean.tolist(),
            "longest": 0 if encoder is None else encoder.longest,
            "length": 0 if encoder is None else encoder.length,
        },
        "fixed": None if fixed is None else _solved_for(fixed, items),
    }


def _solved_for(fixed: solving.FixedItems, items: np.ndarray) -> dict[str, Any]:
    """Return what the script needs to solve for a user against fixed items."""
    return {
        "numNegatives": fixed.num_negatives,
        "l2": fixed.l2,
        "sampled": np.searchsorted(items, fixed.sampled).tolist(),
        "shares": to_base64(fixed.shares.astype("<f8")),
        "steps": solving.STEPS,
        "tolerance": solving.TOLERANCE,
        "leastRidge": solving.LEAST_RIDGE,
        "largestScore": solving.LARGEST_SCORE,
    }


def _network_data(network: Network, items: np.ndarray) -> dict[str, Any]:
    """Return what the script needs of a module beside the vectors of the n items of a page, ascending."""
    weights, bias = network.output
    data: dict[str, Any] = {
        "layers": [{"weight": _floats(weight), "bias": _floats(shift)} for weight, shift in network.layers],
        "output": {"weights": _floats(weights), "bias": bias},
    }
    way = network.way
    if isinstance(way, Pretrained):
        return data | {"maps": [_floats(one) for one in way.maps.values()]}
    return data | {
        "solving": {
            "numNegatives": way.num_negatives,
            "sampled": np.searchsorted(items, way.sampled).tolist(),
            "shares": to_base64(way.shares.astype("<f8")),
            "means": [_floats(one) for one in way.means],
            "deviations": [_floats(one) for one in way.deviations],
            "steps": module_users.STEPS,
            "stepSize": module_users.STEP_SIZE,
        }
    }


def _floats(array: np.ndarray) -> str:
    """Return an array as float32 in base64."""
    return to_base64(array.astype("<f4"))
