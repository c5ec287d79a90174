"""New interactions in a fitted model: histories that grow, with or without further training."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastncf.data.ids import Vocabulary
from fastncf.data.others import OtherUsers
from fastncf.data.split import Split, ordered_items, select_rows
from fastncf.data.updates import add_interactions, renumber_items
from fastncf.errors import ConfigError, DivergedError
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.factors import Factors
from fastncf.models.factored import has_vectors, popularity_factors
from fastncf.models.pretrained import Pretrained
from fastncf.plan import Plan
from fastncf.plan_memory import require_training_memory
from fastncf.serving.histories import NewRows, encode
from fastncf.serving.module_users import solve_tables, tables_like, with_tables
from fastncf.serving.solving import FixedItems, negatives_of, solve_users
from fastncf.stage import BY_STATES, Stage
from fastncf.trainers import require_trainer
from fastncf.trainers.base import Trainer
from fastncf.trainers.loop import ProgressReporter, TrainingLog, train_epochs
from fastncf.trainers.sgd import init_factors

if TYPE_CHECKING:
    from torch import Tensor, nn

LEARNING_RATE_SHARE = 0.5
"""Part of the learning rate of a fit that further epochs begin with."""


class KnownModel(NamedTuple):
    """A fitted model with the data that it knows.

    Attributes:
        trained: factors, or a module whose users have rows in tables.
        encoder: encoder of histories, None for a model without.
        users, items: raw ids.
        split: interactions.
        order: (N,) int32, their order in each row of the split, or None.
        pretrained: what the module keeps of the factors that it started from, or None.
    """

    trained: "Factors | nn.Module"
    encoder: HistoryEncoder | None
    users: Vocabulary
    items: Vocabulary
    split: Split
    order: np.ndarray | None
    pretrained: Pretrained | None = None

    @property
    def factors(self) -> Factors:
        """Parameters of a matrix factorization."""
        assert isinstance(self.trained, Factors)
        return self.trained

    def for_histories(self, plan: Plan, indptr: np.ndarray, items: np.ndarray) -> "Factors | nn.Module":
        """Return the model for users who are known by their histories alone; see :meth:`new_users`."""
        if isinstance(self.trained, Factors):
            vectors, bias = self.new_users(plan.final, indptr, items)
            return self.trained._replace(user_vectors=vectors, user_bias=bias)
        return with_tables(self.trained, self.new_rows(plan, indptr, items))

    def new_rows(self, plan: Plan, indptr: np.ndarray, items: np.ndarray) -> "dict[str, Tensor]":
        """Return tables (U, ...), for a module, of users who are known by their histories alone, by their names.

        A module that was pretrained gets the rows that its maps make of the users in the first model; the rows of
        another one are solved for.

        Args:
            plan: what the model was trained by.
            indptr: (U + 1,) int64.
            items: (N,) int32, the oldest of each history first.
        """
        assert not isinstance(self.trained, Factors)
        pretrained = self.pretrained
        if pretrained is None:
            return solve_tables(self.trained, plan.final, self.split.item_counts(), indptr, items)
        none = np.zeros((0, pretrained.item_vectors.shape[1]), dtype=np.float32)
        first = Factors(none, pretrained.item_vectors, none[:, 0], pretrained.item_bias)
        known = self._replace(trained=first, encoder=pretrained.encoder)
        rows = pretrained.rows(*known.new_users(plan.stages[0], indptr, items))
        return tables_like(self.trained, rows)

    def new_users(self, stage: Stage, indptr: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors (U, D) and biases (U,) float32, for factors, of users who are known by their histories alone.

        Args:
            stage: what the model was trained by.
            indptr: (U + 1,) int64.
            items: (N,) int32, the oldest of each history first.
        """
        num_users = len(indptr) - 1
        if not has_vectors(stage.model):
            return np.zeros((num_users, 1), dtype=np.float32), np.zeros(num_users, dtype=np.float32)
        fixed = self.fixed_items(stage)
        if fixed is None:
            assert self.encoder is not None
            return encode(self.encoder, indptr, items), np.zeros(num_users, dtype=np.float32)
        return solve_users(fixed, indptr, items, self.encoder)

    def fixed_items(self, stage: Stage) -> FixedItems | None:
        """Return what users who were not trained on are solved for against; None where their states are their vectors.

        Args:
            stage: what the model was trained by.
        """
        if self.encoder is not None and stage.trainer in BY_STATES:  # there users have no vectors of their own
            return None
        vectors, bias = self.factors.item_vectors, self.factors.item_bias
        negatives = negatives_of(stage.negatives, stage.negatives_exponent, self.split.item_counts())
        return FixedItems(vectors, bias, stage.num_negatives, stage.l2, *negatives)

    def own_vectors(self) -> np.ndarray:
        """Return the part (U, D) of the users' vectors that does not come from their histories."""
        if self.encoder is None:
            return self.factors.user_vectors
        return self.factors.user_vectors - encode(
            self.encoder, self.split.indptr, ordered_items(self.split, self.order)
        )


def add_rows(known: KnownModel, plan: Plan, rows: NewRows) -> KnownModel:
    """Return the model with more interactions, without training.

    Args:
        known: the model.
        plan: what it was trained by.
        rows: new interactions, later than all others of their users.
    """
    present, user = np.unique(rows.user, return_inverse=True)
    rows = rows._replace(users=Vocabulary(rows.users.decode(present), "user"), user=user.astype(np.int32))
    rows, others = _with_past(rows, known.split.others)
    known = known._replace(split=replace(known.split, others=others))
    users = Vocabulary.of([known.users.ids, rows.users.ids], "user")
    new_index, user = users.encode(known.users.ids), users.encode(rows.users.ids)[rows.user]
    split, order = add_interactions(known.split, known.order, user, rows.item, new_index, len(users))
    if split.weights is not None and rows.weight is not None:
        split = replace(split, weights=split.weights.with_rows(new_index, len(users), user, rows.item, rows.weight))
    grown = known._replace(users=users, split=split, order=order)
    changed = np.unique(user)
    if isinstance(known.trained, Factors):
        return grown._replace(trained=_updated_factors(known, grown, plan.final, new_index, changed))
    return grown._replace(trained=_updated_module(known.trained, grown, plan, new_index, changed))


def _updated_factors(
    known: KnownModel, grown: KnownModel, stage: Stage, new_index: np.ndarray, changed: np.ndarray
) -> Factors:
    """Return the factors for the users of a model that has more interactions.

    Args:
        known: the model before.
        grown: its data afterwards, with the factors of before.
        stage: what it was trained by.
        new_index: (U,) what the index of each of its users is afterwards.
        changed: ascending indices of the users who have new interactions.
    """
    num_users, split, order = len(grown.users), grown.split, grown.order
    if not has_vectors(stage.model):
        return popularity_factors(split.item_weights(), num_users)
    vectors = np.zeros((num_users, known.factors.user_vectors.shape[1]), dtype=np.float32)
    vectors[new_index] = known.factors.user_vectors
    bias = np.zeros(num_users, dtype=np.float32)
    bias[new_index] = known.factors.user_bias
    solved = changed
    if known.encoder is not None:  # keep the part of a user that does not come from the history
        old = np.flatnonzero(np.isin(new_index, changed))
        vectors[new_index[old]] -= encode(known.encoder, *select_rows(known.split, known.order, old))
        vectors[new_index[old]] += encode(known.encoder, *select_rows(split, order, new_index[old]))
        solved = np.setdiff1d(changed, new_index)
    vectors[solved], bias[solved] = known.new_users(stage, *select_rows(split, order, solved))
    return known.factors._replace(user_vectors=vectors, user_bias=bias)


def _updated_module(
    module: "nn.Module", grown: KnownModel, plan: Plan, new_index: np.ndarray, changed: np.ndarray
) -> "nn.Module":
    """Return a module for the users of a model that has more interactions; see :func:`_updated_factors`."""
    import torch

    solved = grown.new_rows(plan, *select_rows(grown.split, grown.order, changed))
    parameters, tables = dict(module.named_parameters()), {}
    for name, rows in solved.items():
        table = rows.new_zeros((len(grown.users), *rows.shape[1:]))
        table[torch.from_numpy(new_index)] = parameters[name].detach()[: len(new_index)]
        table[torch.from_numpy(changed)] = rows
        tables[name] = table
    return with_tables(module, tables)


def _with_past(rows: NewRows, others: OtherUsers | None) -> tuple[NewRows, OtherUsers | None]:
    """Return new interactions behind the past ones of their users who were not trained on, and the rest of these.

    Args:
        rows: new interactions.
        others: users that the model is not trained on, or None.
    """
    if others is None:
        return rows, None
    number = rows.users.encode(others.users.ids)
    is_joining = number >= 0
    if not is_joining.any():
        return rows, others
    joining, staying = (others.select(np.flatnonzero(chosen)) for chosen in (is_joining, ~is_joining))
    past = joining.all_items()
    user = np.concatenate([number[is_joining][past.owner], rows.user]).astype(np.int32)
    in_turn = np.argsort(user, kind="stable")
    weight = rows.weight
    if weight is not None:
        weight = np.concatenate([np.full(len(past.items), weight.mean()), weight])[in_turn]
    item = np.concatenate([past.items, rows.item])[in_turn]
    rows = rows._replace(user=user[in_turn], item=item, weight=weight)
    return rows, staying if len(staying.users) else None


def add_items(known: KnownModel, stage: Stage, items: Vocabulary) -> KnownModel:
    """Return the model with a larger catalogue, whose new items have random vectors and no bias.

    Args:
        known: the model.
        stage: what it was trained by.
        items: ids of all items, old and new.
    """
    new_index = items.encode(known.items.ids)
    fresh = init_factors(replace(stage, model="mf"), 1, len(items))
    vectors, bias = fresh.item_vectors[:, : known.factors.item_vectors.shape[1]].copy(), fresh.item_bias
    vectors[new_index], bias[new_index] = known.factors.item_vectors, known.factors.item_bias
    encoder = known.encoder
    if encoder is not None:
        history_vectors = np.zeros((len(items), *encoder.vectors.shape[1:]), dtype=np.float32)
        history_vectors[new_index] = encoder.vectors
        encoder = encoder._replace(vectors=history_vectors)
    split, order = renumber_items(known.split, known.order, new_index, len(items))
    if split.weights is not None:
        split = replace(split, weights=split.weights.with_items(new_index))
    factors = known.factors._replace(item_vectors=vectors, item_bias=bias)
    return known._replace(trained=factors, encoder=encoder, items=items, split=split, order=order)


def require_further_trainer(stage: Stage) -> type[Trainer]:
    """Return the trainer of a fitted model that can go on with it.

    Raises:
        ConfigError: it cannot, or not here.
    """
    trainer_class = require_trainer(stage, "update")
    if not trainer_class.trains_factors:
        raise ConfigError(
            f"update: the trainer {stage.trainer} cannot go on from a fitted {stage.model:.80}; expected an mf or gmf "
            f"that a kernel has trained, or epochs=0"
        )
    return trainer_class


def train_on(known: KnownModel, plan: Plan, epochs: int, reporter: ProgressReporter) -> tuple[KnownModel, TrainingLog]:
    """Return the model after further epochs on all its training interactions, and their log.

    Args:
        known: the model, whose parameters stay as they are.
        plan: what it was trained by.
        epochs: at least 1.
        reporter: called at the end of each epoch.

    Raises:
        ConfigError: the trainer of the model cannot go on, or not here.
        InsufficientMemoryError: the memory does not suffice.
        DivergedError: the training led to numbers that are not finite.
    """
    stage = plan.final
    if not has_vectors(stage.model):  # its counts are up to date
        return known, TrainingLog()
    trainer_class = require_further_trainer(stage)
    stage = replace(stage, epochs=epochs, learning_rate=LEARNING_RATE_SHARE * stage.learning_rate)
    split = known.split
    require_training_memory(replace(plan.with_everything(split), stages=(stage,)))
    factors = init_factors(stage, split.num_users, split.num_items)
    order = known.order if stage.history == "sequence" else None
    start = known.factors._replace(user_vectors=known.own_vectors())
    with reporter.stage("train"), trainer_class(factors, split, stage, order) as trainer:
        trainer.start_from(start, known.encoder)
        found = train_epochs(trainer, factors, stage, len(split.indices), None, reporter)
        if found.divergence is not None:
            raise DivergedError(found.divergence)
        return known._replace(trained=factors, encoder=trainer.encoder), found.log
