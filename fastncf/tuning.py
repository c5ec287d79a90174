"""Choices that are made by items which are held out of the training for them: the loss, and the l2 of sgd."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fastncf.data.split import Split, hold_out_another
from fastncf.errors import counted
from fastncf.evaluation.candidates import CandidateLists, CandidateSpec, held_out_lists
from fastncf.evaluation.metrics import METRICS
from fastncf.evaluation.ranking import catalogue_ranks_by_factors, ranks_by_factors
from fastncf.kernels.cpu.factors import Factors
from fastncf.plan import Plan
from fastncf.recipes import L2_FACTORS
from fastncf.rng import Stream, key
from fastncf.stage import Stage
from fastncf.threads import run_ranges
from fastncf.trainers import get
from fastncf.trainers.stages import initial_model, prepared_device

_MOST_LISTS = 20_000
"""Held-out items that two plans are compared by at most."""


class HeldOut(NamedTuple):
    """Items that a choice is made by.

    Attributes:
        training: the interactions without them.
        order: (N,) int32, positions within each user's row of these from the oldest to the latest, or None.
        lists: the items.
    """

    training: Split
    order: np.ndarray | None
    lists: CandidateLists[np.ndarray]


def choose_plan(plans: tuple[Plan, Plan], trials: tuple[Stage, Stage], split: Split, order: np.ndarray | None) -> Plan:
    """Return the plan whose trial ranks held-out items better in the whole catalogue, with both NDCG in its reasons.

    Args:
        plans: the first one is returned where the trials are equal, or too few users have two items.
        trials: what is trained for each.
        split: N training interactions.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
    """
    held_out = lists_for_plans(trials[0].seed, split, order)
    if held_out is None:
        return plans[0]
    training, order, lists = held_out
    k, ndcgs = plans[0].evaluation.k, []
    for trial in trials:
        factors = _train(trial, training, order if trial.history == "sequence" else None)
        ranks = catalogue_ranks_by_factors(factors, lists, training.indptr, training.indices)
        ndcgs.append(float(METRICS["ndcg"](ranks, k).mean()))
    better, other = (0, 1) if ndcgs[0] >= ndcgs[1] else (1, 0)
    reason = (
        f"NDCG@{k} of {counted(len(lists.users), 'held-out item')} in the whole catalogue: {ndcgs[better]:.4f}; "
        f"{trials[other].loss}: {ndcgs[other]:.4f}"
    )
    return plans[better].with_reason("loss", reason)


def lists_for_plans(seed: int, split: Split, order: np.ndarray | None) -> HeldOut | None:
    """Return items that plans are compared by, and what is left of the split; None where too few users have two.

    Args:
        seed: determines the users, where there are many.
        split: N training interactions.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
    """
    training, order, positives = hold_out_another(split, order, seed=seed)
    users = np.flatnonzero(positives >= 0).astype(np.int32)
    if len(users) < 2:
        return None
    if len(users) > _MOST_LISTS:
        generator = np.random.Generator(np.random.Philox(key=key(seed, Stream.TUNING)))
        users = np.sort(generator.permutation(users)[:_MOST_LISTS])
    return HeldOut(training, order, CandidateLists(users, positives[users], np.empty((len(users), 0), dtype=np.int32)))


def choose_l2(plan: Plan, split: Split, order: np.ndarray | None) -> Plan:
    """Return the plan with the l2 of its first stage chosen; the plan itself where it has no trials.

    The l2 is that of the trial or a multiple of it, whichever ranks the items that are held out for it best. Larger
    ones are tried for as long as the mean NDCG grows by more than one standard error of the difference.

    Args:
        plan: has the settings of the trials in ``l2_trials``.
        split: N training interactions.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
    """
    if not plan.l2_trials:
        return plan
    trial, evaluation = plan.l2_trials[0], plan.evaluation
    held_out = lists_for_l2(plan, split, order)
    if held_out is None:
        return plan.with_l2(trial.l2, "the default; too few users have two items to choose it by")
    training, order, lists = held_out
    candidates = [factor * trial.l2 for factor in L2_FACTORS]
    ndcgs: dict[float, np.ndarray] = {}

    def try_out(first: int, last: int) -> None:
        """Train with some of the candidates and keep the NDCG of each list."""
        for l2 in candidates[first:last]:
            factors = _train(replace(trial, l2=l2), training, order)
            ndcgs[l2] = METRICS["ndcg"](ranks_by_factors(factors, lists), evaluation.k)

    run_ranges(try_out, np.arange(3))  # two are needed in any case, and with little data each keeps one thread busy
    best = trial.l2
    for index, l2 in enumerate(candidates[1:], start=1):
        if l2 not in ndcgs:
            try_out(index, index + 1)
        difference = ndcgs[l2] - ndcgs[best]
        if not difference.mean() > difference.std(ddof=1) / len(lists.users) ** 0.5:
            break
        best = l2
    tried = ", ".join(f"{l2:g}" for l2 in candidates if l2 in ndcgs)
    return plan.with_l2(
        best, f"chosen among {tried} by the NDCG@{evaluation.k} of {counted(len(lists.users), 'item')} held out for it"
    )


def lists_for_l2(plan: Plan, split: Split, order: np.ndarray | None) -> HeldOut | None:
    """Return lists that an l2 is chosen by, and what is left of the split; None where too few users have two items.

    Args:
        plan: has trials.
        split: N training interactions.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
    """
    training, order, positives = hold_out_another(split, order, seed=plan.l2_trials[0].seed)
    users = np.flatnonzero(positives >= 0).astype(np.int32)
    if len(users) < 2:
        return None
    evaluation = plan.evaluation
    spec = CandidateSpec(evaluation.num_candidates, evaluation.distinct_candidates, evaluation.seed)
    lists = held_out_lists(split, spec, users, positives[users], Stream.TUNING_CANDIDATES)
    return HeldOut(training, order, lists)


def _train(stage: Stage, split: Split, order: np.ndarray | None) -> Factors:
    """Return the factors after all epochs of a stage, on the CPU."""
    with prepared_device(stage, has_module=False):
        model = initial_model(stage, None, split, [])
        with get(stage.trainer)(model, split, stage, order) as trainer:
            for number in range(stage.epochs):
                trainer.epoch(number)
    return model if isinstance(model, Factors) else model.to("cpu").factors()
