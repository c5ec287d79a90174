"""Modules of the user's own: what is trained, what is refused before the training, and torch's modes."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn

import fastncf
from fastncf.errors import ConfigError
from fastncf.models.gmf import GMF
from fastncf.models.mf import MF
from fastncf.models.mlp import MLP
from fastncf.models.scorers import ModuleScorer, make_scorer
from fastncf.trainers.own_module import require_trainable
from tests.conftest import checkerboard, plain_split, random_csr
from tests.stages import make_stage

USERS, ITEMS = 60, 40
pytestmark = pytest.mark.filterwarnings("ignore::fastncf.UnusedSettingWarning")

SMALL = {"epochs": 1, "num_negatives": 2, "batch_size": 256}


class Own(nn.Module):
    def __init__(self, users=USERS, items=ITEMS, change=None, **options):
        super().__init__()
        self.user, self.item = nn.Embedding(users, 4, **options), nn.Embedding(items, 4, **options)
        self.change = change

    def forward(self, users, items):
        scores = (self.user(users) * self.item(items)).sum(-1)
        return scores if self.change is None else self.change(scores)


class Tied(Own):
    def __init__(self):
        super().__init__(USERS, USERS)
        self.item.weight = self.user.weight


class Lazy(Own):
    def __init__(self):
        super().__init__()
        self.output = nn.LazyLinear(1)

    def forward(self, users, items):
        return self.output(self.user(users) * self.item(items)).squeeze(-1)


class OneArgument(Own):
    def forward(self, users):
        return self.user(users).sum(-1)


class ByName(Own):
    def forward(self, *, user, item):
        return super().forward(user, item)


class Country(Own):
    """A side table whose name contains user and that has a row for each country."""

    def __init__(self):
        super().__init__()
        self.user_country = nn.Embedding(3, 4)

    def forward(self, users, items):
        return super().forward(users, items) + self.user_country(users % 3).sum(-1)


class Frozen(nn.Module):
    def forward(self, users, items):
        return users.float()


class Extra(Own):
    extra = None

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


class Norm(Own):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, users, items):
        return self.norm(self.user(users) * self.item(items)).sum(-1)


class Fails(Own):
    def forward(self, users, items):
        raise KeyError("genre")


def made_in_inference_mode():
    with torch.inference_mode():
        return Own()


def with_extra(value):
    module = Extra()
    module.extra = value
    return module


TAKEN = {
    "plain": Own,
    "tied": Tied,
    "more rows": lambda: Own(100, 90),
    "column": lambda: Own(change=lambda scores: scores.unsqueeze(-1)),
    "double": lambda: Own().double(),
    "bfloat16": lambda: Own().bfloat16(),
    "in evaluation mode": lambda: Own().eval(),
    "normed": Norm,
    "padding": lambda: Own(padding_idx=0),
    "max_norm": lambda: Own(max_norm=1.0),
    "extra state": lambda: with_extra({"a": [1, 2]}),
    "mf with more rows": lambda: MF(100, 90, 4),
    "gmf with more rows": lambda: GMF(100, 90, 4),
    "mlp with more rows": lambda: MLP(100, 90, 8, (16, 8)),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_modules_are_trained_saved_and_loaded(kind, tmp_path):
    rec = fastncf.fit(checkerboard(), model=TAKEN[kind](), full_ranking=True, **SMALL)
    rec.save(tmp_path / "model")
    again = fastncf.load(tmp_path / "model", model=TAKEN[kind]())
    assert_frame_equal(again.recommend([0, 59], k=60), rec.recommend([0, 59], k=60))
    assert again.evaluate().metrics == rec.metrics
    if kind == "extra state":
        assert again.model.extra == {"a": [1, 2]}


def test_rows_beyond_the_data_stay_as_they_are():
    for module in (MF(100, 90, 4), MLP(100, 90, 8, (16, 8))):
        before = copy.deepcopy(module)
        rec = fastncf.fit(checkerboard(), model=module, **SMALL)
        assert rec.plan.final.trainer != "autograd"
        for name, rows in (("user_embedding", USERS), ("item_embedding", ITEMS)):
            new, old = (getattr(one, name).weight for one in (module, before))
            assert torch.equal(new[rows:], old[rows:])
            assert not torch.equal(new[:rows], old[:rows])
        assert set(rec.similar_items(3, k=100)["similar_item"]) == set(range(ITEMS)) - {3}


REFUSED = {
    "few users": (
        lambda: Own(59),
        "for the last of 60 users, index 59, forward fails .*embeddings with 60 rows",
    ),
    "few items": (lambda: Own(items=39), "for the last of 40 items, index 39, forward fails .* with 40 rows"),
    "few users of an mf": (lambda: MF(59, 40, 4), "for the last of 60 users, index 59, forward fails"),
    "few items of an mlp": (lambda: MLP(60, 39, 8, (16, 8)), "for the last of 40 items, index 39, forward fails"),
    "sparse": (lambda: Own(sparse=True), r"the gradient of user\.weight is sparse, .*expected sparse=False"),
    "tuple": (
        lambda: Own(change=lambda scores: (scores,)),
        "forward returned tuple .*expected a floating-point",
    ),
    "dict": (lambda: Own(change=lambda scores: {"scores": scores}), "forward returned dict"),
    "none": (lambda: Own(change=lambda scores: None), "forward returned NoneType"),
    "mean": (lambda: Own(change=lambda scores: scores.mean()), r"forward returned torch\.float32 of shape \(\)"),
    "matrix": (
        lambda: Own(change=lambda scores: scores[:, None] + scores),
        r"of shape \(4, 4\) for ids of shape",
    ),
    "integers": (lambda: Own(change=lambda scores: scores.long()), r"forward returned torch\.int64"),
    "detached": (lambda: Own(change=lambda scores: scores.detach()), "do not depend on a parameter that is trained"),
    "nan": (lambda: Own(change=lambda scores: scores * torch.nan), "the score is NaN before the training"),
    "one argument": (OneArgument, r"forward fails \(TypeError: .*expected a forward\(user_ids, item_ids\)"),
    "keywords": (ByName, r"forward fails \(TypeError"),
    "error": (Fails, r"forward fails \(KeyError: 'genre'\)"),
    "lazy": (Lazy, r"output\.weight is not initialised"),
    "meta": (lambda: Own().to("meta"), r"user\.weight is on the device meta"),
    "inference": (made_in_inference_mode, r"user\.weight was made in torch\.inference_mode\(\)"),
    "half": (lambda: Own().half(), r"user\.weight is torch\.float16; expected float32, float64 or bfloat16"),
    "side table": (Country, "an embedding whose name contains user or item has fewer rows"),
    "extra state": (lambda: with_extra({1, 2}), "its state holds a set as _extra_state"),
    "no parameters": (Frozen, "Frozen has no parameters that can be trained"),
    "all frozen": (lambda: Own().requires_grad_(False), "Own has no parameters that can be trained"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_is_refused_before_the_training(kind, monkeypatch):
    make, reason = REFUSED[kind]
    monkeypatch.setattr("fastncf.trainers.stages.train_epochs", lambda *arguments: pytest.fail("the training began"))
    with pytest.raises(ConfigError, match=rf"^model='?{type(make()).__name__}'?: .*{reason}") as error:
        fastncf.fit(checkerboard(), model=make(), **SMALL)
    assert len(str(error.value)) <= 500


def test_a_side_table_is_trained_without_l2():
    assert fastncf.fit(checkerboard(), model=Country(), l2=0, **SMALL).metrics["hr@10"] <= 1


def test_the_check_leaves_the_module_and_the_generators_alone():
    module, stage = Norm().eval(), make_stage(model="Norm")
    module.user.weight.grad = gradient = torch.ones_like(module.user.weight)
    before, state = copy.deepcopy(module.state_dict()), torch.random.get_rng_state()
    split = plain_split(*random_csr(np.random.default_rng(0), USERS, ITEMS), ITEMS)
    require_trainable(module, stage, split)
    assert not any(layer.training for layer in module.modules())
    assert module.user.weight.grad is gradient
    assert module.item.weight.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def hooked(module):
    module.register_forward_hook(lambda layer, arguments, output: 2 * output)
    return module


def replaced(module):
    module.forward = lambda users, items: (users - items).float() * module.item_embedding.weight.sum()
    return module


def padded(module):
    module.item_embedding = nn.Embedding(ITEMS, 8, padding_idx=3)
    return module


def shared(module):
    module.item_embedding = module.user_embedding
    return module


def parametrized(module):
    nn.utils.parametrizations.weight_norm(module.user_embedding)
    return module


def with_gradient_hook(module):
    module.user_embedding.weight.register_hook(lambda gradient: gradient * 0)
    return module


@pytest.mark.parametrize("make", [lambda: MF(USERS, USERS, 8), lambda: MLP(USERS, USERS, 8, (16, 8))])
@pytest.mark.parametrize("change", [hooked, replaced, padded, shared, parametrized, with_gradient_hook])
def test_kernels_leave_objects_to_autograd_that_compute_something_else_than_their_class(make, change):
    module = change(make())
    rec = fastncf.fit(checkerboard(), model=module, **SMALL)
    assert rec.plan.final.trainer == "autograd"
    if change in (hooked, replaced, parametrized):
        assert isinstance(make_scorer(module), ModuleScorer)
    users, items = torch.tensor([1, 5]), torch.tensor([2, 30])
    with torch.no_grad():
        np.testing.assert_allclose(rec.score([1, 5], [2, 30])["score"], module(users, items), rtol=1e-4, atol=1e-6)


@contextlib.contextmanager
def changed(set_value, value, before):
    set_value(value)
    try:
        yield
    finally:
        set_value(before)


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: changed(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: changed(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "meta": lambda: changed(torch.set_default_device, "meta", None),
    "deterministic": lambda: changed(torch.use_deterministic_algorithms, True, False),
    "low precision": lambda: changed(torch.set_float32_matmul_precision, "medium", "highest"),
    "NumPy's errors": lambda: np.errstate(all="raise"),
    "two threads": lambda: changed(torch.set_num_threads, 2, 1),
}


def state_of_torch():
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        torch.random.get_rng_state().tolist(),
    )


@pytest.fixture(scope="module")
def usual():
    """Results without a mode, by the settings of the fit."""
    return {}


def results(settings):
    if settings.get("model") == "own":
        torch.manual_seed(1)
        with torch.inference_mode(False), torch.device("cpu"):
            module = Own().float()
            for table in (module.user, module.item):
                table.weight = nn.Parameter(
                    torch.linspace(-1, 1, table.weight.numel(), dtype=torch.float32).view(-1, 4)
                )
        settings = settings | {"model": module}
    rec = fastncf.fit(checkerboard(), **(SMALL | settings))
    frame = rec.recommend([1, 2], k=5)
    return rec.model.state_dict(), rec.metrics, rec.training_log[-1]["loss"], frame.rows()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "settings",
    [
        {"dim": 4},
        {"dim": 4, "model": "gmf"},
        {"dim": 4, "model": "gmf", "optimizer": "adam"},
        {"dim": 4, "model": "mf", "optimizer": "adam", "loss": "bpr", "validation": True},
        {"dim": 4, "model": "neumf", "layers": (8, 4), "dropout": 0.2, "l2": 0.01},
        {"dim": 4, "model": "mlp", "layers": (8, 4), "dropout": 0.2, "optimizer": "adam", "precision": "bfloat16"},
        {"model": "own"},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_the_bits_do_not_depend_on_torchs_modes_and_the_modes_are_restored(settings, mode, usual):
    name = str(settings)
    if name not in usual:
        usual[name] = results(settings)
    state, *numbers = usual[name]
    with MODES[mode]():
        before = state_of_torch()
        found, *found_numbers = results(settings)
        assert state_of_torch()[:-1] == before[:-1]
    assert found_numbers == numbers
    for key, tensor in state.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key
    assert not any(tensor.is_inference() for tensor in found.values())
