"""Stages for benchmarks that train a part of the data, or single epochs, without a whole fit."""

from fastncf.config import Config
from fastncf.data.facts import DataFacts
from fastncf.data.split import Split
from fastncf.plan import make_plan
from fastncf.stage import Stage


def stage_of(config: Config, split: Split, *, has_order: bool = False) -> Stage:
    """Return the settings by which a fit of ``config`` would train its final model on a split.

    Args:
        config: what is asked for.
        split: training interactions.
        has_order: whether the order of a user's interactions is known and tells something.
    """
    facts = DataFacts(
        num_users=split.num_users,
        num_items=split.num_items,
        num_interactions=len(split.indices),
        num_rows=split.num_interactions,
        has_order=has_order,
        order_reason="the benchmark says so",
        holdout=split.holdout,
    )
    return make_plan(config, facts).final
