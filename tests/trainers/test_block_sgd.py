import itertools

import numpy as np
import polars as pl
import pytest
import torch

import fastncf
from fastncf.config import FAST, RECIPES, SPARSE, SPARSE_BELOW, Config
from fastncf.data.split import Split
from fastncf.errors import ConfigError
from fastncf.kernels.cpu.negatives import ATTEMPTS, is_dense
from fastncf.models.losses import LOSSES
from fastncf.models.mf import MF
from fastncf.rng import Stream
from fastncf.sampling.distributions import alias_table
from fastncf.sampling.loader import Batch
from fastncf.sampling.negatives import draw_reference, position_keys
from fastncf.trainers import block_sgd as blocks
from fastncf.trainers.autograd import l2_penalty, score_batch
from fastncf.trainers.block_sgd import BlockSGD, side
from fastncf.trainers.sgd import SGDSettings
from tests.conftest import checkerboard, random_csr


@pytest.fixture
def fine_grid(monkeypatch):
    """Blocks of a few interactions, so that small data make a grid."""
    monkeypatch.setattr(blocks, "_INTERACTIONS_A_BLOCK", 12)
    monkeypatch.setattr(blocks, "_ITEMS_A_PART", 5)


def split_of(indptr: np.ndarray, indices: np.ndarray, num_items: int) -> Split:
    none = np.full(len(indptr) - 1, -1, np.int32)
    return Split(num_items, indptr, indices, none, none, 0, 0, 0, holdout="latest")


def random_split(seed: int, num_users: int = 30, num_items: int = 40, max_degree: int = 25) -> Split:
    return split_of(*random_csr(np.random.default_rng(seed), num_users, num_items, max_degree), num_items)


def random_model(split: Split, dim: int, seed: int = 0) -> MF:
    model = MF(split.num_users, split.num_items, dim, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model


def descent(**changes) -> SGDSettings:
    settings = {
        "num_negatives": 3,
        "seed": 7,
        "pairwise": False,
        "l2": 0.002,
        "shuffle": True,
        "negatives_exponent": None,
    }
    return SGDSettings(**(settings | changes))


def make(model: MF, split: Split, **changes) -> BlockSGD:
    return BlockSGD(model.factors(), split, descent(**changes))


def steps(trained: BlockSGD, number: int, first: int, parts: list[np.ndarray]):
    """(turn, batch of one interaction) in the order of the epoch, its negatives drawn in plain Python."""
    negatives = trained.descent.num_negatives
    keys = position_keys(trained.descent.seed, Stream.NEGATIVES, number, positions=len(trained.places) * negatives)
    for turn, which in itertools.product(range(trained.side), repeat=2):
        part = (which + first + turn) % trained.side
        items = parts[part]
        weights = None
        if trained.descent.negatives_exponent is not None:
            weights = alias_table("popularity", trained.counts[items], trained.descent.negatives_exponent)
        for user in range(trained.ranges[which], trained.ranges[which + 1]):
            start, stop = trained.bounds[user, part : part + 2].tolist()
            touched = trained.places[start:stop].tolist()
            assert touched == sorted(touched)
            untouched = sorted(set(range(len(items))) - set(touched))
            attempts = 0 if is_dense(len(touched), len(items)) else ATTEMPTS
            for row in range(start, stop):
                drawn = [
                    draw_reference(row * negatives + k, keys, attempts, len(items), set(touched), untouched, weights)
                    for k in range(negatives if untouched else 0)
                ]
                chosen = torch.from_numpy(items[[trained.places[row], *drawn]]).unsqueeze(0)
                yield turn, Batch(torch.tensor([user]), chosen[:, 0], chosen[:, 1:])


def watch(trained: BlockSGD, monkeypatch) -> dict:
    """What an epoch draws for itself: its parts, and the first of them."""
    seen = {}
    parts = BlockSGD._parts

    def keep(self, random):
        seen["parts"] = parts(self, random)
        state = random.bit_generator.state
        seen["first"] = int(random.integers(self.side))
        random.bit_generator.state = state
        return seen["parts"]

    monkeypatch.setattr(BlockSGD, "_parts", keep)
    return seen


@pytest.mark.usefixtures("fine_grid")
@pytest.mark.parametrize("dim", [1, 16, 37])
@pytest.mark.parametrize(("loss", "negatives"), [("bce", 3), ("bpr", 3), ("bce", 1), ("bpr", 17), ("bce", 40)])
@pytest.mark.parametrize("exponent", [None, 0.75])
def test_each_step_is_autograds(monkeypatch, dim, loss, negatives, exponent):
    """Against autograd in float64 over the same draws, fresh ones in each case, repeats among them."""
    seed = dim + negatives
    split = random_split(seed)
    model = random_model(split, dim)
    reference = random_model(split, dim).double()
    trained = make(
        model, split, pairwise=loss == "bpr", num_negatives=negatives, negatives_exponent=exponent, seed=seed
    )
    assert trained.side == 4
    seen = watch(trained, monkeypatch)
    rates = [0.05, 0.02, 0.05, 0.03]
    total = trained.epoch(2, rates)
    optimizer = torch.optim.SGD(reference.parameters(), lr=1.0)
    expected, visited = 0.0, []
    for turn, batch in steps(trained, 2, **seen):
        visited.append((int(batch.user), int(batch.positive)))
        terms = batch.negatives.numel() + (loss == "bce")
        if terms:
            value = LOSSES[loss].function(*score_batch(reference, batch))
            optimizer.zero_grad()
            (
                rates[turn] * (terms * value + trained.descent.terms * l2_of_whole(reference, batch, negatives))
            ).backward()
            optimizer.step()
            expected += terms * float(value.detach())
    owners = np.repeat(np.arange(split.num_users), np.diff(split.indptr))
    assert sorted(visited) == list(zip(owners.tolist(), split.indices.tolist(), strict=True))
    for name, parameter in model.state_dict().items():
        torch.testing.assert_close(parameter.double(), reference.state_dict()[name], rtol=1e-5, atol=1e-5)
    assert total == pytest.approx(expected, rel=1e-5)


def l2_of_whole(model: MF, batch: Batch, negatives: int) -> torch.Tensor:
    """The penalty of a step; where nothing could be drawn the positive alone has its share."""
    if batch.negatives.numel():
        return l2_penalty(model, batch, 0.002)
    user, item = model.user_embedding(batch.user), model.item_embedding(batch.positive)
    return 0.002 * (user.square().sum() + item.square().sum() / (1 + negatives))


@pytest.mark.usefixtures("fine_grid")
def test_a_part_that_is_touched_throughout_has_no_negatives(monkeypatch):
    split = split_of(np.array([0, 19, 21, 23]), np.array([*range(19), 0, 5, 3, 19], np.int32), 20)
    trained = make(random_model(split, 16), split)
    trained.side = 2
    trained.ranges = np.array([0, 1, 3])
    trained.bounds = np.empty((3, 3), np.int64)
    seen = watch(trained, monkeypatch)
    assert np.isfinite(trained.epoch(0, [0.1, 0.1]))
    counts = [batch.negatives.numel() for _, batch in steps(trained, 0, **seen)]
    assert sorted(set(counts)) == [0, 3]


@pytest.mark.usefixtures("fine_grid")
def test_same_bits_for_any_number_of_threads(monkeypatch):
    split = random_split(3, num_users=200, num_items=200, max_degree=60)
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("FASTNCF_NUM_THREADS", threads)
        model = random_model(split, 20)
        trained = make(model, split)
        assert trained.side == 16
        losses = [trained.epoch(number, [0.05] * trained.side) for number in range(2)]
        found.append((losses, [parameter.detach().clone() for parameter in model.parameters()]))
    for losses, parameters in found[1:]:
        assert losses == found[0][0]
        assert all(map(torch.equal, parameters, found[0][1]))


@pytest.mark.usefixtures("fine_grid")
def test_parts_change_with_the_epoch_and_are_alike_in_popularity():
    split = random_split(1, num_users=200, num_items=200, max_degree=60)
    trained = make(random_model(split, 4), split)

    def parts(number: int) -> list[np.ndarray]:
        return trained._parts(np.random.Generator(np.random.Philox(key=number)))

    one, two = parts(1), parts(2)
    assert sorted(np.concatenate(one).tolist()) == list(range(200))
    assert any(a.tolist() != b.tolist() for a, b in zip(one, two, strict=True))
    shares = [trained.counts[part].sum() for part in one]
    assert max(shares) - min(shares) <= trained.counts.max()


def test_the_grid_grows_with_the_data_alone():
    assert side(50, 30) == 1
    assert side(90_000, 1_682) == 2
    assert side(994_169, 3_706) == 8
    assert side(20_000_000, 26_744) == 32
    assert side(20_000_000, 500) == 4
    assert side(10**10, 10**7) == 32


def test_a_number_that_is_not_one_shows_in_the_loss():
    split = random_split(5)
    model = random_model(split, 16)
    with torch.no_grad():
        model.item_embedding.weight[3] = float("nan")
    assert np.isnan(make(model, split).epoch(0, [0.1]))


def test_which_optimizer_is_taken():
    quick = {"dim": 4, "epochs": 1}
    assert fastncf.fit(checkerboard(), **quick).config.optimizer == "sgd"
    assert fastncf.fit(checkerboard(), model="gmf", **quick).config.optimizer == "sgd"
    assert fastncf.fit(checkerboard(), model="mlp", **quick).config.optimizer == "parts"
    assert fastncf.fit(checkerboard(), optimizer="adam", **quick).config.optimizer == "adam"
    own = MF(60, 40, 4)
    assert fastncf.fit(checkerboard(), model=own, **quick).config.optimizer == "sgd"
    assert fastncf.fit(checkerboard(), model=own.double(), **quick).config.optimizer == "adam"
    with pytest.raises(ConfigError, match="optimizer='sgd' trains mf and gmf in float32 on a CPU, not mlp on cpu"):
        fastncf.fit(checkerboard(), model="mlp", optimizer="sgd", **quick)
    with pytest.raises(ConfigError, match="not MF on cpu"):
        fastncf.fit(checkerboard(), model=own, optimizer="sgd", **quick)


@pytest.mark.parametrize("history", ["recent", "all", "none"])
def test_sparse_data_have_a_recipe_of_their_own(history):
    sparse = Config().with_recipe("sgd", history, SPARSE_BELOW - 0.1)
    assert {name: getattr(sparse, name) for name in SPARSE[history]} == SPARSE[history]
    assert sparse.learning_rate == RECIPES["sgd", history]["learning_rate"]
    assert Config().with_recipe("sgd", history, SPARSE_BELOW) == Config().with_recipe("sgd", history)
    own = Config(dim=8, negatives="popularity", negatives_exponent=1.5).with_recipe("sgd", history, 1)
    assert (own.dim, own.negatives, own.negatives_exponent) == (8, "popularity", 1.5)
    fast = Config(budget="fast").with_recipe("sgd", history, 1)
    assert (fast.epochs, fast.l2) == (FAST["sparse"]["epochs"], sparse.l2)


def test_fit_looks_at_the_interactions_per_item():
    frame = pl.DataFrame({"user": np.repeat(np.arange(40), 3), "item": np.arange(120) % 60, "time": np.arange(120)})
    recipe = SPARSE["none"]
    config = fastncf.fit(frame, model="mf", history="none").config
    assert (config.epochs, config.l2, config.negatives) == (recipe["epochs"], recipe["l2"], recipe["negatives"])
    gmf = fastncf.fit(frame, model="gmf", history="none", epochs=1)
    assert gmf.model.user_embedding.embedding_dim == recipe["dim"]
    told = []
    fastncf.fit(frame, model="mlp", dim=4, history="none", epochs=1, device="cpu", callback=told.append)
    assert sum(progress.stage == "epoch" for progress in told) == told[-1].epochs == recipe["epochs"] + 1


@pytest.mark.parametrize(("optimizer", "history"), RECIPES)
def test_what_is_left_out_is_filled_in_by_optimizer_and_history(optimizer, history):
    recipe = RECIPES[optimizer, history]
    filled = Config(l2=0.5).with_recipe(optimizer, history)
    assert (filled.optimizer, filled.history, filled.l2) == (optimizer, history, 0.5)
    assert filled.learning_rate == recipe["learning_rate"]
    fast = Config(budget="fast", epochs=3).with_recipe(optimizer, history)
    assert (fast.epochs, fast.learning_rate, fast.l2) == (3, FAST[optimizer]["learning_rate"], recipe["l2"])
