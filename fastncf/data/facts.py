"""Facts of the data that a plan depends on."""

from dataclasses import dataclass

import numpy as np

from fastncf.data.holdout import Rule
from fastncf.data.interactions import Interactions
from fastncf.data.order import draw_sample, order_matters
from fastncf.data.split import Split, time_order
from fastncf.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Facts of the data that a plan depends on.

    Attributes:
        num_users: U.
        num_items: I.
        num_interactions: N, training interactions.
        num_rows: rows of the source, before anything is dropped or held out.
        has_order: whether the order of a user's interactions is known and informative.
        order_reason: why ``has_order`` is what it is, as a sentence without a full stop.
        holdout: what is held out, see :class:`~fastncf.data.split.Split`.
        has_weights: whether interactions have weights in the loss.
    """

    num_users: int
    num_items: int
    num_interactions: int
    num_rows: int
    has_order: bool
    order_reason: str
    holdout: Rule
    has_weights: bool = False


def find_facts(
    interactions: Interactions, split: Split, *, needs_order: bool, history: str | None, seed: int
) -> tuple[DataFacts, np.ndarray | None]:
    """Find the facts of the data that a plan depends on.

    Args:
        interactions: rows of the source, M of them.
        split: N training interactions.
        needs_order: whether the order of the interactions makes a difference to the plan; finding it takes time.
        history: setting that was asked for, see :class:`~fastncf.config.Config`; None leaves the choice to the data.
        seed: determines a sample of the users and a shuffle of their histories.

    Returns:
        The facts, and (N,) int32 the positions in each user's row of the split from the oldest to the latest, or None
        where the order is unknown, uninformative, or makes no difference.

    Raises:
        ConfigError: ``history="sequence"`` was asked for and the data have no times.
    """
    has_order, reason, order = False, "the order makes no difference to the model", None
    if needs_order and interactions.time is None:
        if history == "sequence":
            raise ConfigError(f"history='sequence': {interactions.source} has no times; expected 'bag' or 'none'")
        reason = "the data have no times"
    elif needs_order:
        has_order, reason = True, "it was asked for"
        if history is None:
            users = draw_sample(split, seed)
            has_order = order_matters(split, time_order(interactions, split, users), users, seed)
            reason = (
                "items that follow each other in one user's history do so in others', more often than by chance"
                if has_order
                else "items that follow each other in one user's history do so in others' no more often than by chance"
            )
    elif history is None and split.holdout == "random":
        reason = "any interaction is held out, so the order must not tell which"
    if has_order:
        order = time_order(interactions, split)
    facts = DataFacts(
        num_users=split.num_users,
        num_items=split.num_items,
        num_interactions=len(split.indices),
        num_rows=len(interactions.user),
        has_order=has_order,
        order_reason=reason,
        holdout=split.holdout,
        has_weights=split.weights is not None,
    )
    return facts, order
