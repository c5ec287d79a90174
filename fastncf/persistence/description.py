"""Description of a saved model beside its parameters: settings, ids, split, metrics; written, and read with checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import polars as pl

from fastncf.config import Config
from fastncf.data.csr import Rows
from fastncf.data.facts import DataFacts
from fastncf.data.holdout import Rule
from fastncf.data.ids import Vocabulary
from fastncf.data.others import OtherUsers
from fastncf.data.split import Split
from fastncf.data.weights import PairWeights
from fastncf.memory import require_torch
from fastncf.models.factored import FORMS
from fastncf.persistence.arrays import require_apart, require_order, require_rows, require_split, require_weights
from fastncf.persistence.plain import UnexpectedError, as_numbers, finite_or_none, read_plain
from fastncf.plan import Plan, make_plan
from fastncf.trainers.loop import TrainingLog

if TYPE_CHECKING:
    from torch import nn

ARRAYS = "indptr", "indices", "test_item", "validation_item", "test_candidates"
"""Names of the arrays of a split; the last one may be missing."""

_ROWS = "test_rows", "validation_rows", "other_histories", "other_test"
"""Rows of items that a split may have, each in two arrays: the items, and the bounds in ``NAME_indptr``."""

_WEIGHTS = {"weight_indptr": "indptr", "weight_indices": "indices", "weight_values": "values"}
"""Names of the arrays of weights, which may all be missing, and of the fields of PairWeights."""

_MOST_LAYERS = 1000
_RANGED = "dropout", "init_std", "num_negatives", "negatives_exponent", "batch_size", "learning_rate", "l2", "seed"
"""Settings of a stage that have the ranges of a Config's."""

_COUNTS = "num_duplicates", "num_users_all_seen", "num_users_too_short"


@dataclass(frozen=True, kw_only=True)
class _Ids:
    """Ids of all users or items, ascending."""

    dtype: Literal["Int64", "UInt64", "String"]
    ids: list[Any]


@dataclass(frozen=True, kw_only=True)
class _Plain:
    """Values of a description, by the names that JSON has for them; None stands for a number that is not finite."""

    format: int
    model_class: str
    extra_state: dict[str, Any] = field(default_factory=dict)
    config: Config
    plan: Plan | None = None
    metrics: dict[str, float | None]
    errors: dict[str, float | None] = field(default_factory=dict)
    popularity: dict[str, float | None] = field(default_factory=dict)
    protocol: str
    data: dict[str, int]
    seconds: dict[str, float | None]
    training_log: list[dict[str, float | None]]
    found: dict[str, Any]
    holdout: Rule
    num_test_repeated: int = 0
    num_kept: tuple[int, ...] = ()
    titles: list[str | None] | None = None
    users: _Ids
    items: _Ids
    other_users: _Ids | None = None


class Fields(TypedDict):
    """The attributes of a :class:`~fastncf.recommender.Recommender` beside its trained parameters."""

    config: Config
    plan: Plan
    users: Vocabulary
    items: Vocabulary
    split: Split
    metrics: dict[str, float]
    errors: dict[str, float]
    popularity: dict[str, float]
    protocol: str
    data: dict[str, int]
    seconds: dict[str, float]
    training_log: TrainingLog
    found: dict[str, Any]
    order: np.ndarray | None
    num_kept: tuple[int, ...]
    titles: pl.Series | None


def describe(
    model_class: str, extra_state: dict[str, Any], saved: Fields
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the plain values and the arrays from which :func:`read_fields` makes the same attributes.

    Args:
        model_class: name of the model's class.
        extra_state: what ``get_extra_state()`` of its modules returned, by names in the state; plain values.
        saved: attributes of the recommender.
    """
    split, plain = (
        saved["split"],
        {name: finite_or_none(saved[name]) for name in ("metrics", "errors", "popularity", "seconds", "training_log")},
    )
    description = {
        "model_class": model_class,
        "extra_state": extra_state,
        "config": saved["config"].to_dict(),
        "plan": saved["plan"].to_dict(),
        **plain,
        **{name: saved[name] for name in ("protocol", "data", "found")},
        "holdout": split.holdout,
        "num_kept": list(saved["num_kept"]),
        "titles": None if saved["titles"] is None else saved["titles"].to_list(),
        **{f"{one.noun}s": _ids(one) for one in (saved["users"], saved["items"])},
        "num_test_repeated": split.num_test_repeated,
        "other_users": None if split.others is None else _ids(split.others.users),
    }
    arrays = {name: getattr(split, name) for name in ARRAYS} | {"order": saved["order"]}
    rows = {"test_rows": split.test_rows, "validation_rows": split.validation_rows}
    if (others := split.others) is not None:
        rows |= {"other_histories": others.histories, "other_test": others.test}
    for name, one in rows.items():
        if one is not None:
            arrays |= {f"{name}_indptr": one.indptr, name: one.items}
    arrays |= {name: getattr(split.weights, field, None) for name, field in _WEIGHTS.items()}
    return description, {name: array for name, array in arrays.items() if array is not None}


def _ids(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a vocabulary as plain values."""
    return {"dtype": str(vocabulary.ids.dtype), "ids": vocabulary.ids.to_list()}


def read_fields(
    description: dict[str, Any], arrays: Mapping[str, Any], model: "nn.Module | None", current_format: int
) -> tuple[str, dict[str, Any], Fields]:
    """Return the name of the model's class, its extra states, and the attributes of the recommender that was saved.

    Args:
        description: plain values of any format.
        arrays: of the split, by name.
        model: a module of the user's own, for a plan of format 1.
        current_format: in older formats, settings that have a default may be missing.

    Raises:
        UnexpectedError: a value or an array is missing, unknown, of another type, out of range, or contradicts another.
        ConfigError: the settings exclude each other, or name what is not registered here.
    """
    version = description["format"]
    current = _with_current_names(description) if version == 1 else description
    plain = read_plain(_Plain, current, "the description", may_lack=version < current_format)
    users, items = _vocabulary(plain.users, "user"), _vocabulary(plain.items, "item")
    split = _read_split(plain, arrays, len(users), len(items))
    if (order := arrays.get("order")) is not None:
        require_order(order, split.indptr)
    if plain.config.model not in FORMS and model is None:
        require_torch(f"load: a saved {plain.config.model!r:.80}")
    if plain.plan is None:
        if version != 1:
            raise UnexpectedError("the description has no plan")
        plan = _former_plan(plain, split, model)
    else:
        plan = plain.plan
        _require_plan(plan, split)
    if plain.num_kept and len(plain.num_kept) != len(plan.stages):
        raise UnexpectedError("num_kept has another length than the stages of the plan")
    if any(not 0 <= kept <= stage.epochs for kept, stage in zip(plain.num_kept, plan.stages, strict=False)):
        raise UnexpectedError("num_kept holds more epochs than the plan has, or fewer than 0")
    fields = Fields(
        config=plain.config,
        plan=plan,
        users=users,
        items=items,
        split=split,
        metrics=as_numbers(plain.metrics),
        errors=as_numbers(plain.errors),
        popularity=as_numbers(plain.popularity),
        protocol=plain.protocol,
        data=plain.data,
        seconds=as_numbers(plain.seconds),
        training_log=[as_numbers(entry) for entry in plain.training_log],
        found=plain.found,
        order=order,
        num_kept=plain.num_kept,
        titles=_titles(plain.titles, len(items)),
    )
    return plain.model_class, plain.extra_state, fields


def _vocabulary(stated: _Ids, noun: str) -> Vocabulary:
    """Return the vocabulary of ids that ascend."""
    expected = str if stated.dtype == "String" else int
    try:
        if set(map(type, stated.ids)) != {expected}:
            raise TypeError
        ids = pl.Series(noun, stated.ids, dtype=getattr(pl, stated.dtype))
    except (TypeError, OverflowError, ValueError, pl.exceptions.PolarsError):
        words = "text" if expected is str else f"integers that {stated.dtype} holds"
        raise UnexpectedError(f"the ids of {noun}s are not all {words}") from None
    if len(ids) >= 2**31 or not bool((ids.slice(1) > ids.slice(0, len(ids) - 1)).all()):
        raise UnexpectedError(f"the ids of {noun}s do not ascend")
    return Vocabulary(ids, noun)


def _titles(stated: list[str | None] | None, num_items: int) -> pl.Series | None:
    """Return the titles of I items, null for one without; None where none are stated."""
    if stated is None:
        return None
    if len(stated) != num_items:
        raise UnexpectedError(f"there are {len(stated)} titles; expected one for each of {num_items} items, or null")
    try:
        return pl.Series("title", stated, dtype=pl.String)
    except (TypeError, ValueError, pl.exceptions.PolarsError):
        raise UnexpectedError("the titles are not all text") from None


def _read_split(plain: _Plain, arrays: Mapping[str, Any], num_users: int, num_items: int) -> Split:
    """Return the split, whose arrays are checked, and whose counts are there."""
    known = (*ARRAYS, *_WEIGHTS, "order", *_ROWS, *(f"{name}_indptr" for name in _ROWS))
    if unknown := [name for name in arrays if name not in known]:
        raise UnexpectedError(f"the data have the unknown array {unknown[0]!r:.80}")
    if missing := [name for name in ARRAYS[:-1] if name not in arrays]:
        raise UnexpectedError(f"the data have no array {missing[0]}")
    counts = plain.data
    if wrong := [name for name in ("users", "items", "interactions", *_COUNTS) if counts.get(name, -1) < 0]:
        raise UnexpectedError(f"data.{wrong[0]} is missing or below 0")
    if (counts["users"], counts["items"]) != (num_users, num_items):
        raise UnexpectedError(f"data has other numbers of users and items than the ids, {num_users} and {num_items}")
    split = Split(
        num_items=num_items,
        indptr=arrays["indptr"],
        indices=arrays["indices"],
        test_item=arrays["test_item"],
        validation_item=arrays["validation_item"],
        num_duplicates=counts["num_duplicates"],
        num_users_all_seen=counts["num_users_all_seen"],
        num_users_too_short=counts["num_users_too_short"],
        num_candidates_seen=counts.get("num_candidates_seen", 0),
        holdout=plain.holdout,
        test_candidates=arrays.get("test_candidates"),
        test_rows=_rows(arrays, "test_rows", num_users, num_items),
        validation_rows=_rows(arrays, "validation_rows", num_users, num_items),
        others=_others(plain, arrays, num_items),
        num_test_repeated=plain.num_test_repeated,
    )
    require_split(split, num_users)
    if not any(name in arrays for name in _WEIGHTS):
        return split
    if missing := [name for name in _WEIGHTS if name not in arrays]:
        raise UnexpectedError(f"the data have no array {missing[0]}")
    weights = PairWeights(**{field: arrays[name] for name, field in _WEIGHTS.items()})
    require_weights(weights, split)
    return replace(split, weights=weights)


def _rows(arrays: Mapping[str, Any], name: str, num_users: int, num_items: int) -> Rows | None:
    """Return rows of items, which are checked; None where there are none."""
    indptr, items = arrays.get(f"{name}_indptr"), arrays.get(name)
    if indptr is None and items is None:
        return None
    if indptr is None or items is None:
        raise UnexpectedError(f"the data have one of the arrays {name} and {name}_indptr alone")
    rows = Rows(indptr, items)
    require_rows(name, rows, num_users, num_items)
    return rows


def _others(plain: _Plain, arrays: Mapping[str, Any], num_items: int) -> OtherUsers | None:
    """Return the users that the model is not trained on; None where there are none."""
    if plain.other_users is None:
        if any(name in arrays for name in ("other_histories", "other_test")):
            raise UnexpectedError("the data have items of other users, and there are no ids of these")
        return None
    users = _vocabulary(plain.other_users, "user")
    histories, test = (_rows(arrays, name, len(users), num_items) for name in ("other_histories", "other_test"))
    if histories is None or test is None:
        raise UnexpectedError("the data have no items of the other users")
    require_apart("other_test", test, histories, num_items)
    return OtherUsers(users, histories, test)


def _require_plan(plan: Plan, split: Split) -> None:
    """Raise an error for a plan of other data, or one that could not be printed or whose model could not be built."""
    facts = plan.data
    found = facts.num_users, facts.num_items, facts.num_interactions, facts.holdout, facts.has_weights
    own = split.num_users, split.num_items, len(split.indices), split.holdout, split.weights is not None
    if found != own:
        raise UnexpectedError("the plan is for other data than those of the split")
    if not plan.stages or not len(plan.stages) == len(plan.reasons) == len(plan.passed_over):
        raise UnexpectedError("the plan has another number of reasons than of stages")
    for stage in (*plan.stages, *plan.l2_trials):
        if min(stage.dim, stage.mlp_dim, *stage.layers, 1) < 1 or len(stage.layers) > _MOST_LAYERS:
            raise UnexpectedError("the plan has a stage without a dimension, or with too many layers")
        Config(epochs=max(1, stage.epochs), **{name: getattr(stage, name) for name in _RANGED})
        if stage.epochs < 0:
            raise UnexpectedError("the plan has a stage of fewer than 0 epochs")
    try:
        str(plan)
    except KeyError as error:
        raise UnexpectedError(f"the plan has no reason for {error}") from None


_FORMER_NAMES = {
    "folded": "num_duplicates",
    "left_out": "num_users_all_seen",
    "too_short": "num_users_too_short",
    "rule": "holdout",
    "history": "training_log",
}
"""Names in a description of format 1, and what they are called now."""


def _with_current_names(description: dict[str, Any]) -> dict[str, Any]:
    """Return a description of format 1 with the names of today."""

    def renamed(values: Any) -> Any:
        """Return values by the names of today."""
        return {_FORMER_NAMES.get(n, n): v for n, v in values.items()} if isinstance(values, dict) else values

    return {**renamed(description), "data": renamed(description.get("data"))}


def _former_plan(plain: _Plain, split: Split, model: "nn.Module | None") -> Plan:
    """Return the plan of a fit whose settings were saved with everything filled in, and no plan."""
    num_rows = plain.found.get("rows", split.num_interactions)
    facts = DataFacts(
        num_users=split.num_users,
        num_items=split.num_items,
        num_interactions=len(split.indices),
        num_rows=num_rows if type(num_rows) is int else split.num_interactions,
        has_order=plain.config.history == "sequence",
        order_reason="as in the fit",
        holdout=split.holdout,
    )
    return make_plan(replace(plain.config, device="cpu", precision="float32"), facts, model)
