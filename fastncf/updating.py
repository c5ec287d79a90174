"""New interactions in a fitted model: histories that grow, and new items, without further training."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastncf.data.ids import Vocabulary
from fastncf.data.others import OtherUsers
from fastncf.data.split import Split, ordered_items, select_rows
from fastncf.data.updates import add_interactions, renumber_items
from fastncf.errors import ConfigError, counted
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.factors import Factors
from fastncf.memory import require_memory
from fastncf.models.factored import has_vectors, module_factors, popularity_factors
from fastncf.models.pretrained import Pretrained, encoder_with_items, scatter_rows
from fastncf.plan import Plan
from fastncf.serving.histories import NewRows, encode
from fastncf.serving.module_items import with_new_items
from fastncf.serving.module_users import solve_tables, table_names, tables_like, with_tables
from fastncf.serving.solving import FixedItems, negatives_of, solve_users
from fastncf.stage import BY_STATES, Stage
from fastncf.trainers.sgd import init_factors

if TYPE_CHECKING:
    from torch import Tensor, nn

_BYTES_PER_OLD, _BYTES_PER_ORDERED, _BYTES_PER_NEW = 60, 84, 100
"""Memory of :func:`add_interactions` for each interaction that the model knows, without and with an order, and for each
new one."""


def holds_factors(module: "nn.Module", factors: Factors) -> bool:
    """Return whether the first table of a module's users holds the vectors of factors with the same scores."""
    names = table_names(module)
    return names is not None and module.get_parameter(names[0]).shape[1:] == factors.user_vectors.shape[1:]


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
            rows = self._rows_by_factors(plan.final, indptr, items)
            return rows or solve_tables(self.trained, plan.final, self.split.item_counts(), indptr, items)
        return tables_like(self.trained, pretrained.rows(*self.first_model().new_users(plan.stages[0], indptr, items)))

    def _rows_by_factors(self, stage: Stage, indptr: np.ndarray, items: np.ndarray) -> "dict[str, Tensor]":
        """Return the rows that :meth:`new_users` finds for a module that is a matrix factorization, else none."""
        assert not isinstance(self.trained, Factors)
        factors = module_factors(self.trained, stage.model, len(self.users), len(self.items))
        if factors is None or not holds_factors(self.trained, factors):
            return {}
        found = self._replace(trained=factors).new_users(stage, indptr, items)
        return tables_like(self.trained, dict(zip(table_names(self.trained) or (), found, strict=False)))

    def first_model(self) -> "KnownModel":
        """Return the matrix factorization that a module was pretrained by, without its users."""
        assert self.pretrained is not None
        none = np.zeros((0, self.pretrained.item_vectors.shape[1]), dtype=np.float32)
        first = Factors(none, self.pretrained.item_vectors, none[:, 0], self.pretrained.item_bias)
        return self._replace(trained=first, encoder=self.pretrained.encoder)

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
    _require_memory(known, rows)
    split, order = add_interactions(known.split, known.order, user, rows.item, new_index, len(users))
    if split.weights is not None and rows.weight is not None:
        split = replace(split, weights=split.weights.with_rows(new_index, len(users), user, rows.item, rows.weight))
    grown = known._replace(users=users, split=split, order=order)
    changed = np.unique(user)
    if isinstance(known.trained, Factors):
        return grown._replace(trained=_updated_factors(known, grown, plan.final, new_index, changed))
    return grown._replace(trained=_updated_module(known.trained, grown, plan, new_index, changed))


def _require_memory(known: KnownModel, rows: NewRows) -> None:
    """Refuse new interactions where they and those of the model do not fit into the memory while they are merged."""
    old, new = len(known.split.indices), len(rows.item)
    needed = (_BYTES_PER_OLD if known.order is None else _BYTES_PER_ORDERED) * old + _BYTES_PER_NEW * new
    what = f"update: {counted(new, 'interaction')} and the {old:,} of the model"
    require_memory(what, needed, "fewer interactions at a time")


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
    vectors = scatter_rows(known.factors.user_vectors, new_index, num_users)
    bias = scatter_rows(known.factors.user_bias, new_index, num_users)
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
    """Return a module for the users of a model that has more interactions; see :func:`_updated_factors`.

    Raises:
        ConfigError: there are new users, and the module does not name its tables of users.
    """
    import torch

    if table_names(module) is None:
        if not np.array_equal(new_index, np.arange(len(grown.users))):
            count = counted(len(grown.users) - len(new_index), "new user")
            raise ConfigError(
                f"update: {count} came, and {type(module).__name__:.80} does not name its tables of users; "
                f"expected user_tables in its class, or interactions of its own users"
            )
        return module
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
    """Return the model with a larger catalogue.

    New items have random vectors and no bias in factors, and the mean of the other items' rows in a module.

    Args:
        known: the model.
        stage: what it was trained by.
        items: ids of all items, old and new.

    Raises:
        ConfigError: the model is a module that does not name its tables of items.
    """
    new_index = items.encode(known.items.ids)
    split, order = renumber_items(known.split, known.order, new_index, len(items))
    if split.weights is not None:
        split = replace(split, weights=split.weights.with_items(new_index))
    grown = known._replace(items=items, split=split, order=order)
    if isinstance(known.trained, Factors):
        return _with_new_items(grown, stage, new_index)
    pretrained = known.pretrained
    return grown._replace(
        trained=with_new_items(known.trained, new_index, len(items)),
        pretrained=None if pretrained is None else pretrained.with_items(new_index, len(items)),
    )


def _with_new_items(known: KnownModel, stage: Stage, new_index: np.ndarray) -> KnownModel:
    """Return a model of factors that has the vectors of more items, see :func:`add_items`."""
    num_items = len(known.items)
    fresh = init_factors(replace(stage, model="mf"), 1, num_items)
    vectors, bias = fresh.item_vectors[:, : known.factors.item_vectors.shape[1]].copy(), fresh.item_bias
    vectors[new_index], bias[new_index] = known.factors.item_vectors, known.factors.item_bias
    factors = known.factors._replace(item_vectors=vectors, item_bias=bias)
    encoder = None if known.encoder is None else encoder_with_items(known.encoder, new_index, num_items)
    return known._replace(trained=factors, encoder=encoder)
