"""BlockSGD against one epoch in NumPy; data, models and checks that test_history_sgd.py uses too."""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastncf.data.split import Split
from fastncf.data.weights import PairWeights
from fastncf.kernels.cpu.negatives import ATTEMPTS, is_dense
from fastncf.models.losses import LOSSES
from fastncf.models.mf import MF
from fastncf.rng import Stream
from fastncf.sampling.distributions import alias_table
from fastncf.sampling.negatives import draw_reference, position_keys
from fastncf.stage import Stage
from fastncf.trainers import block_sgd
from fastncf.trainers.base import Trainer
from fastncf.trainers.block_sgd import BlockSGD, grid_size
from fastncf.trainers.sgd import init_factors, learning_rates
from tests import reference
from tests.conftest import plain_split, random_csr
from tests.reference import Parameters
from tests.stages import make_stage


@pytest.fixture
def fine_grid(monkeypatch):
    """Blocks of a few interactions, so that small data make a grid."""
    monkeypatch.setattr(block_sgd, "_INTERACTIONS_PER_BLOCK", 12)
    monkeypatch.setattr(block_sgd, "_ITEMS_PER_PART", 5)


def random_split(seed: int, num_users: int = 30, num_items: int = 40, max_degree: int = 25) -> Split:
    return plain_split(*random_csr(np.random.default_rng(seed), num_users, num_items, max_degree), num_items)


def random_model(split: Split, dim: int, seed: int = 0) -> MF:
    """Return a model whose parameters, biases too, are far from 0."""
    model = MF(split.num_users, split.num_items, dim)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model


def sgd_stage(**changes) -> Stage:
    return make_stage(**{"optimizer": "sgd", "seed": 7, "l2": 0.002, "learning_rate": 0.05} | changes)


def with_weights(split: Split, seed: int) -> Split:
    """Return a split whose interactions have weights of which some are 0."""
    values = np.random.default_rng(seed).integers(0, 6, len(split.indices)) * 1.5
    return replace(split, weights=PairWeights(split.indptr, split.indices, values))


def weights_by_pair(split: Split) -> dict[tuple[int, int], float]:
    """Return what the loss of each (user, item) is multiplied by: weights with a mean of 1."""
    weights = split.interaction_weights()
    owners = np.repeat(np.arange(split.num_users), np.diff(split.indptr))
    pairs = zip(owners.tolist(), split.indices.tolist(), strict=True)
    values = np.ones(len(owners)) if weights is None else weights.astype(np.float64)
    return dict(zip(pairs, values.tolist(), strict=True))


def numpy_step(
    p: Parameters, user: int, items: np.ndarray, stage: Stage, rate: float, interaction_weight: float = 1
) -> tuple[Parameters, float]:
    """Return the parameters of a matrix factorization after the step of one interaction, and its summed loss.

    The step goes along the gradient of the sum of the terms plus the l2 term, see :meth:`SGDSettings.step`.

    Args:
        p: parameters, named as in ``MF``.
        user: its index.
        items: (C,), the positive first; no negatives follow where the user has seen all items.
        stage: settings.
        rate: learning rate.
        interaction_weight: weight of the loss, but not of the l2 term.
    """
    users, items = np.array([user]), items[None]
    scores = reference.mf_forward(p, users, items)
    num_terms = reference.num_terms(stage.loss, items.size - 1)
    loss, grad_scores = reference.LOSSES[stage.loss](scores) if num_terms else (0.0, np.zeros_like(scores))
    total, grad_scores = num_terms * loss, num_terms * grad_scores
    weight = min(1, 8 / stage.num_negatives)
    weights = np.array([[1.0] + [weight] * (items.size - 1)])
    if stage.loss == "bce":
        own = float(np.logaddexp(0, -scores[0, 0]))
        total, grad_scores = own + weight * (total - own), grad_scores * weights
    else:
        total, grad_scores = weight * total, grad_scores * weight
    total, grad_scores = interaction_weight * total, interaction_weight * grad_scores
    grads = reference.mf_backward(p, users, items, grad_scores)
    decay = 2 * stage.l2 * weighted_terms(stage)
    item_vectors = p["item_embedding.weight"]
    grads["user_embedding.weight"][user] += decay * p["user_embedding.weight"][user]
    grads["item_embedding.weight"] += reference.scatter(
        len(item_vectors),
        items,
        decay / (1 + weight * stage.num_negatives) * weights[..., None] * item_vectors[items],
    )
    return {name: p[name] - rate * grads[name] for name in p}, total


def weighted_terms(stage: Stage) -> float:
    """Return the sum of the weights of an interaction's terms: negatives have a weight of 8 / K beyond K = 8."""
    return min(stage.num_negatives, 8) + (stage.loss == "bce")


def draw_negatives(
    rows: range, positions: np.ndarray, stage: Stage, counts: np.ndarray, epoch: int
) -> Iterator[list[int]]:
    """Yield the negatives of each interaction of a user in plain Python, as positions.

    Args:
        rows: rows of the data that hold the user's interactions.
        positions: (n,) positions of the user's items, which are not drawn.
        stage: settings.
        counts: (m,) interactions of the items that are drawn from.
        epoch: its number.
    """
    num_items, num_negatives = len(counts), stage.num_negatives
    keys = position_keys(stage.seed, Stream.NEGATIVES, epoch, positions=2**20)
    weights = alias_table(stage.negatives, counts, stage.negatives_exponent)
    seen = set(positions.tolist())
    unseen = sorted(set(range(num_items)) - seen)
    attempts = 0 if is_dense(len(seen), num_items) else ATTEMPTS
    for row in rows:
        first = row * num_negatives
        yield [
            draw_reference(first + k, keys, attempts, num_items, seen, unseen, weights)
            for k in range(num_negatives if unseen else 0)
        ]


def visits(trainer: BlockSGD, epoch: int, parts: list[np.ndarray], first: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield round, user and samples (C,), the positive first, of each interaction in the order of an epoch.

    Args:
        trainer: after the epoch.
        epoch: its number.
        parts: items of each part.
        first: part that the first range of users begins with.
    """
    for turn, users in itertools.product(range(trainer.grid), repeat=2):
        part = (users + first + turn) % trainer.grid
        items = parts[part]
        for user in range(trainer.ranges[users], trainer.ranges[users + 1]):
            start, stop = trainer.rows.bounds[user, part : part + 2].tolist()
            positions = trainer.rows.positions[start:stop]
            assert positions.tolist() == sorted(positions.tolist())
            drawn = draw_negatives(range(start, stop), positions, trainer.stage, trainer.counts[items], epoch)
            for positive, negatives in zip(positions, drawn, strict=True):
                yield turn, user, items[[positive, *negatives]].astype(np.int64)


def watch_parts(monkeypatch) -> dict:
    """Return a dict that an epoch fills with what it draws for itself: its parts, and the first of them."""
    drawn = {}
    deal = BlockSGD._deal

    def keep(self, random):
        drawn["parts"] = deal(self, random)
        state = random.bit_generator.state
        drawn["first"] = int(random.integers(self.grid))
        random.bit_generator.state = state
        return drawn["parts"]

    monkeypatch.setattr(BlockSGD, "_deal", keep)
    return drawn


@pytest.mark.usefixtures("fine_grid")
@pytest.mark.parametrize("dim", [1, 16, 37])
@pytest.mark.parametrize(("loss", "num_negatives"), [("bce", 3), ("bpr", 3), ("bce", 1), ("bpr", 17), ("bce", 40)])
@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_an_epoch_is_that_of_numpy(monkeypatch, dim, loss, num_negatives, negatives):
    """In float64 over the same draws, with items that are drawn more than once for an interaction."""
    check_epoch(monkeypatch, random_split(dim + num_negatives), dim, loss, num_negatives, negatives)


@pytest.mark.usefixtures("fine_grid")
@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_an_epoch_with_weights_is_that_of_numpy(monkeypatch, loss):
    check_epoch(monkeypatch, with_weights(random_split(1), 1), 16, loss, 3, "uniform")


def check_epoch(monkeypatch, split, dim, loss, num_negatives, negatives) -> None:
    seed, weight_of = dim + num_negatives, weights_by_pair(split)
    model = random_model(split, dim)
    p = reference.parameters_of(model)
    stage = sgd_stage(loss=loss, num_negatives=num_negatives, negatives=negatives, seed=seed, l2=0.02)
    trainer = BlockSGD(model.factors(), split, stage)
    assert trainer.grid == 4
    drawn = watch_parts(monkeypatch)
    total = trainer.epoch(2)
    rates = learning_rates(stage, 2, trainer.grid)
    expected, visited, sizes = 0.0, [], []
    for turn, user, items in visits(trainer, 2, **drawn):
        visited.append((user, int(items[0])))
        sizes.append(len(set(items.tolist())))
        p, value = numpy_step(p, user, items, stage, rates[turn], weight_of[visited[-1]])
        expected += value
    assert num_negatives == 1 or min(sizes) < 1 + num_negatives
    owners = np.repeat(np.arange(split.num_users), np.diff(split.indptr))
    assert sorted(visited) == list(zip(owners.tolist(), split.indices.tolist(), strict=True))
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), p[name], rtol=1e-5, atol=1e-5)
    assert total == pytest.approx(expected / weighted_terms(stage), rel=1e-5)


@pytest.mark.usefixtures("fine_grid")
def test_a_part_of_which_all_is_seen_has_no_negatives(monkeypatch):
    split = plain_split(np.array([0, 19, 21, 23]), np.array([*range(19), 0, 5, 3, 19], np.int32), 20)
    model = random_model(split, 16)
    p = reference.parameters_of(model)
    trainer = BlockSGD(model.factors(), split, sgd_stage())
    trainer.grid, trainer.ranges = 2, np.array([0, 1, 3])
    trainer.rows = trainer.rows._replace(bounds=np.empty((3, 3), np.int64))
    drawn = watch_parts(monkeypatch)
    trainer.epoch(0)
    sizes = set()
    for turn, user, items in visits(trainer, 0, **drawn):
        sizes.add(len(items))
        p, _ = numpy_step(p, user, items, trainer.stage, learning_rates(trainer.stage, 0, 2)[turn])
    assert sizes == {1, 4}
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), p[name], rtol=1e-5, atol=1e-5)


def check_threads(monkeypatch, make) -> None:
    """Train two epochs by 1, 2, 3 and 5 threads; losses and parameters have the same bits.

    Args:
        monkeypatch: sets the number of threads.
        make: returns a new model and its trainer.
    """
    found = []
    for threads in ("1", "2", "3", "5"):
        monkeypatch.setenv("FASTNCF_NUM_THREADS", threads)
        model, trainer = make()
        losses = [trainer.epoch(number) for number in range(2)]
        found.append((losses, [parameter.detach().clone() for parameter in model.parameters()]))
    for losses, parameters in found[1:]:
        assert losses == found[0][0]
        assert all(map(torch.equal, parameters, found[0][1]))


@pytest.mark.usefixtures("fine_grid")
def test_same_bits_for_any_number_of_threads(monkeypatch):
    split = random_split(3, num_users=200, num_items=200, max_degree=60)

    def make():
        model = random_model(split, 20)
        trainer = BlockSGD(model.factors(), split, sgd_stage())
        assert trainer.grid == 16
        return model, trainer

    check_threads(monkeypatch, make)


def check_resumption(make) -> None:
    """Train five epochs, and two, the state, and three in a new trainer of another model: the same bits.

    Args:
        make: returns a model with parameters that depend on a seed, and its trainer.
    """
    model, trainer = make(0)
    for number in range(5):
        trainer.epoch(number)
    _, first = make(0)
    for number in range(2):
        first.epoch(number)
    state = copy.deepcopy(first.state_dict())
    after_two = [table.copy() for table in first.model]
    first.epoch(2)  # the state is not the trainer's own any more
    other_model, other = make(1)
    other.load_state_dict(state)
    for table, expected in zip(other_model.factors(), after_two, strict=True):
        np.testing.assert_array_equal(table, expected)
    for number in range(2, 5):
        other.epoch(number)
    for table, expected in zip(other_model.factors(), model.factors(), strict=True):
        np.testing.assert_array_equal(table, expected)


def check_refused_states(trainer: Trainer) -> None:
    """Check that states with other names or shapes are refused and change nothing."""
    before = copy.deepcopy(trainer.state_dict())
    name = next(iter(before))
    wrong = (
        {other: array for other, array in before.items() if other != name},
        before | {"moments": before[name]},
        before | {name: np.ones_like(before[name])[1:]},
        before | {name: np.ones_like(before[name])[..., :1]},
    )
    for state in wrong:
        with pytest.raises(ValueError, match=r"state: .*expected"):
            trainer.load_state_dict(state)
    for other, array in trainer.state_dict().items():
        np.testing.assert_array_equal(array, before[other])


@pytest.mark.usefixtures("fine_grid")
@pytest.mark.parametrize("loss", ["bce", "bpr"])
@pytest.mark.parametrize("dim", [16, 20])
def test_training_goes_on_from_a_state(loss, dim):
    split = random_split(3)

    def make(seed):
        model = random_model(split, dim, seed)
        return model, BlockSGD(model.factors(), split, sgd_stage(loss=loss))

    check_resumption(make)


def test_other_states_are_refused():
    split = random_split(0)
    check_refused_states(BlockSGD(random_model(split, 20).factors(), split, sgd_stage()))


@pytest.mark.usefixtures("fine_grid")
def test_parts_change_with_the_epoch_and_are_alike_in_popularity():
    split = random_split(1, num_users=200, num_items=200, max_degree=60)
    trainer = BlockSGD(random_model(split, 4).factors(), split, sgd_stage())

    def parts(number: int) -> list[np.ndarray]:
        return trainer._deal(np.random.Generator(np.random.Philox(key=number)))

    one, two = parts(1), parts(2)
    assert sorted(np.concatenate(one).tolist()) == list(range(200))
    assert any(a.tolist() != b.tolist() for a, b in zip(one, two, strict=True))
    counts = [trainer.counts[part].sum() for part in one]
    assert max(counts) - min(counts) <= trainer.counts.max()


def test_the_grid_grows_with_the_data_alone():
    assert grid_size(50, 30) == 1
    assert grid_size(90_000, 1_682) == 2
    assert grid_size(994_169, 3_706) == 8
    assert grid_size(20_000_000, 26_744) == 32
    assert grid_size(20_000_000, 500) == 4
    assert grid_size(10**10, 10**7) == 32


def test_nan_shows_in_the_loss():
    split = random_split(5)
    model = random_model(split, 16)
    with torch.no_grad():
        model.item_embedding.weight[3] = float("nan")
    assert np.isnan(BlockSGD(model.factors(), split, sgd_stage()).epoch(0))


def test_factors_of_a_gmf_leave_two_dimensions_for_the_biases():
    mf, gmf = (init_factors(sgd_stage(model=model, dim=8), 5, 7) for model in ("mf", "gmf"))
    assert [table.shape for table in mf] == [(5, 8), (7, 8), (5,), (7,)]
    assert [table.shape for table in gmf] == [(5, 6), (7, 6), (5,), (7,)]
    assert not any(table.any() for table in (*mf[2:], *gmf[2:]))
    wide = init_factors(sgd_stage(dim=64, init_std=0.3), 500, 400)
    assert [float(table.std()) for table in wide[:2]] == pytest.approx([0.3, 0.3], rel=0.02)


def check_objections(trainer: type[Trainer], **settings) -> None:
    """Check what any trainer by SGD says of stages and modules that it cannot train."""

    def reason(module=None, **changes):
        return trainer.why_not(sgd_stage(**settings | changes), module)

    assert reason() is None
    assert reason(model="gmf", dim=3) is None
    assert "not by adam" in reason(optimizer="adam")
    assert "cuda:0" in reason(device="cuda:0")
    assert "mlp" in reason(model="mlp")
    assert "dim=2" in reason(model="gmf", dim=2)
    model = MF(6, 5, 4)
    assert reason(model) is None
    assert reason(model, model="MF") is None
    assert "torch.float64" in reason(MF(6, 5, 4).double())
    assert "not for Sub" in reason(type("Sub", (MF,), {})(6, 5, 4))
    assert "not for Linear" in reason(torch.nn.Linear(2, 2))
    model.item_bias.requires_grad_(False)
    assert "item_bias is frozen" in reason(model)
    sparse = MF(6, 5, 4)
    sparse.user_bias = torch.nn.Parameter(torch.zeros(12)[::2])
    assert "user_bias is not contiguous" in reason(sparse)


def check_loss_without_kernel(monkeypatch, trainer: type[Trainer], **settings) -> None:
    """Check that a loss without a form in the CPU kernels is refused, also by the constructor."""
    monkeypatch.setitem(LOSSES, "hinge", LOSSES["bpr"].__class__(lambda positive, negatives: None, terms="pair"))
    split, stage = random_split(0), sgd_stage(loss="hinge", **settings)
    assert "loss='hinge'" in trainer.why_not(stage, None)
    with pytest.raises(ValueError, match="loss code None"):
        trainer(random_model(split, 4).factors(), split, stage)


def test_objections(monkeypatch):
    check_objections(BlockSGD)
    assert "history='bag'" in BlockSGD.why_not(sgd_stage(history="bag"), None)
    assert "history='sequence'" in BlockSGD.why_not(sgd_stage(history="sequence"), MF(6, 5, 4))
    check_loss_without_kernel(monkeypatch, BlockSGD)
