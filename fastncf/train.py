"""``fit()``, from a ratings file to a fitted recommender, and ``plan_fit()``, which stops before the training."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from fastncf import distributed
from fastncf.asked import Asked, read_asked, takes_asked
from fastncf.calibration import clock_started, measured_plan
from fastncf.checkpoints import Checkpoint, open_checkpoint, recording
from fastncf.checkpoints.fingerprint import data_of, settings_of
from fastncf.config import Config
from fastncf.data.facts import DataFacts, find_facts
from fastncf.data.given_files import draw_test_users, read_with_test
from fastncf.data.holdout import quantile_of
from fastncf.data.interactions import Interactions, draw_users, in_order_of_rows
from fastncf.data.protocols import make_split
from fastncf.data.split import Split, hold_out_nothing
from fastncf.data.streamed import read_within_memory
from fastncf.data.titles import read_titles
from fastncf.errors import DivergedError, counted
from fastncf.mapped import leave_memory
from fastncf.memory import format_bytes, limited_memory, parse_bytes
from fastncf.numpy_errors import usual_errors
from fastncf.persistence.plain import as_numbers, finite_or_none
from fastncf.plan import Plan, alternative_plan, likely_facts, make_plan, trial_of
from fastncf.plan_memory import require_compiler_memory, require_plan_memory
from fastncf.processes import use_one_torch_thread_after_fork
from fastncf.progress import progress_shown
from fastncf.recommender import Recommender
from fastncf.refit import TrainedOnAll, train_on_all
from fastncf.rng import Stream, key
from fastncf.trainers.loop import Progress, ProgressReporter
from fastncf.trainers.stages import train_stages, validation_of
from fastncf.tuning import choose_l2, choose_plan
from fastncf.unused import Fit, Inputs, refuse_contradictions, warn_of_unused

if TYPE_CHECKING:
    from torch import nn

_MEASURED = "metrics", "errors", "popularity"
"""Attributes of a recommender that hold what was measured, by label."""


@takes_asked
def fit(
    train: Any,
    *,
    model: "str | nn.Module | None" = None,
    titles: Any | None = None,
    callback: Callable[[Progress], object] | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    max_memory: int | str | None = None,
    **asked: Unpack[Asked],
) -> Recommender:
    """Read interactions, hold some out, train, evaluate, and return the fitted recommender.

    Within a process group of ``torch.distributed`` all ranks call it and train together, see ``docs/scaling.md``.

    Args:
        train: a ratings file in any MovieLens dialect, CSV, TSV, JSON lines, Parquet or Feather, a list of such files,
            a pattern or a folder of Parquet files; a polars or pandas frame; or the name of a data set such as
            ``ml-1m``, which is downloaded unless there is a file of this name; see
            :func:`fastncf.data.interactions.read_interactions`. Every row is an interaction; ratings are not read.
        model: name of a model, or any ``nn.Module`` that maps user and item tensors (n,) int32 to logits (n,).
        titles: titles of the items, which answers then show and a saved model keeps; see
            :meth:`fastncf.Recommender.recommend`.
        callback: called with a :class:`Progress` at each stage and after each epoch; returning True after an epoch
            ends the training of that stage of the plan.
        progress: show a bar where stderr is a terminal or this is a notebook, and say there when kernels are compiled.
        checkpoint: folder to which the state of the training is written after each epoch, and every five minutes
            within one, so that nothing of a fit that is killed is lost. Ctrl-C and SIGTERM then finish the batch first.
        resume: go on from the state in ``checkpoint``, if there is one, with the same data and settings, except that
            there may be more epochs. The result has the same bits as that of a fit that was never stopped.
        max_memory: most memory that the process may use, in bytes or as text such as ``4GB``: where it is short,
            negatives are drawn when they are needed, and a fit that is not expected to keep the limit is refused.
            Limits of containers are found and kept in the same way.
        **asked: all other names: fields of :class:`Config`, and

            - ``test``: held-out interactions, one or several per user, instead of holding out the latest of ``train``.
            - ``candidates``: with ``test``, the file of its negatives in the format of He et al. 2017; otherwise they
              are drawn.
            - ``user``, ``item``, ``time``, ``rating``: names of columns where they are not the usual ones; the rating
              is that of ``min_rating``.
            - ``weight``: name of a column of weights in ``train``, such as counts or quantities: finite numbers of at
              least 0. The loss of each interaction, its negatives included, is multiplied by its weight; those of a
              repeated pair are added up. They are divided by their mean first, so that only their ratios matter.
            - ``config``: settings; those given by name take precedence.

    Raises:
        DataNotFoundError, DataError: the input cannot be used; the message says where and why.
        ConfigError: a setting is out of range or unknown, two exclude each other, or no trainer takes the model with
            them.
        DeviceError: the device is not available, or its memory does not suffice.
        ForkError: this process was forked from one that had used Polars, or CUDA where that is asked for.
        InsufficientMemoryError: the memory of the machine, or of a limit, does not suffice.
        DivergedError: the training led to numbers that are not finite; its attribute ``recommender`` has the parameters
            of the last epoch with finite ones.

    Warns:
        UnusedSettingWarning: a setting was given that has no effect beside the others.
    """
    use_one_torch_thread_after_fork()
    # NumPy's own settings, whatever the caller has set; no decorator, in whose file the warnings below would be
    with (
        usual_errors(),
        limited_memory(parse_bytes("max_memory", max_memory)),
        distributed.together() as ranks,
        progress_shown(callback, is_shown=progress if distributed.is_first() else False) as callback,
        open_checkpoint(checkpoint, resume=resume) as kept,
    ):
        config, inputs = read_asked(model, asked)
        refuse_contradictions(config, inputs)
        likely = likely_plan(config, inputs)  # refuses settings before the data are read
        if kept is not None:
            kept.require_same(settings=settings_of(config, inputs.module))
        reporter = ProgressReporter(callback, likely.num_epochs)
        if ranks is None:
            data = Prepared.read(train, inputs, config, likely, reporter)
        else:
            data = _read_once(ranks, train, inputs, config, likely, reporter)
        item_titles = None if titles is None else read_titles(titles, data.interactions.items)
        plan = make_plan(config, data.facts, inputs.module)
        chosen = Fit(config, inputs, likely, plan)
        warned = warn_of_unused(chosen, stacklevel=2)
        require_plan_memory(plan, data.split)

        def when_chosen(plan: Plan) -> None:
            """Warn of what the plan does not use that held-out items have chosen, in the line that calls fit()."""
            warn_of_unused(chosen._replace(plan=plan), warned, stacklevel=4)

        return fit_prepared(data, plan, config, inputs.module, item_titles, reporter, kept, when_chosen)


def fit_prepared(
    data: "Prepared",
    plan: Plan,
    config: Config,
    module: "nn.Module | None",
    titles: Any,
    reporter: ProgressReporter,
    kept: Checkpoint | None = None,
    when_chosen: Callable[[Plan], object] = lambda plan: None,
) -> Recommender:
    """Choose what is left open by held-out items, train, and evaluate.

    Args:
        data: the data, read and split.
        plan: what :func:`~fastncf.plan.make_plan` made of the settings and the data.
        config: the settings; their seed draws the candidates of the evaluation.
        module: a module of the user's own, trained in place, or None.
        titles: (I,) String, titles of the items, or None.
        reporter: called at each stage and after each epoch.
        kept: an open checkpoint, or None.
        when_chosen: called with the plan that held-out items have chosen, before the training.

    Raises:
        DivergedError: the training led to numbers that are not finite.
    """
    reporter.expected = format_bytes(plan.cost.memory_bytes)
    with reporter.stage("tune"):
        plan = _chosen(plan, data, config, kept)
    when_chosen(plan)
    reporter.num_epochs = plan.num_epochs
    with reporter.stage("train"):
        trained, plan, split, order = _train(plan, module, data, config, reporter, kept)
    if trained.model is None:
        raise DivergedError(trained.divergence or "")
    recommender = Recommender(
        trained=trained.model,
        config=config,
        plan=plan,
        users=data.interactions.users,
        items=data.interactions.items,
        split=split,
        data=_counts(data.interactions, split),
        training_log=trained.log,
        found=data.interactions.source_info,
        order=order if plan.uses_order else None,
        num_kept=trained.num_kept,
        encoder=trained.encoder,
        pretrained=trained.pretrained,
        titles=titles,
    )
    if trained.divergence is not None:
        recommender.seconds = reporter.total()
        raise DivergedError(trained.divergence, recommender)
    with reporter.stage("evaluate"):
        _evaluate(recommender, kept)
    recommender.seconds = reporter.total()
    return recommender


@takes_asked
def plan_fit(
    train: Any,
    *,
    model: "str | nn.Module | None" = None,
    measure: bool = False,
    **asked: Unpack[Asked],
) -> Plan:
    """Read and split interactions as :func:`fit` does, and return the plan of the fit without training anything.

    The arguments and errors are those of :func:`fit`. ``print(plan)`` tells each choice with its reason, and the memory
    and time to expect. The plan does not know an ``l2`` that the fit will choose on held-out items.

    Args:
        measure: run each part of the fit for a moment, on a copy of a module, to measure the speed of this machine; and
            let held-out items choose the loss if that takes a few seconds.
    """
    with usual_errors(), clock_started() as clock:
        config, inputs = read_asked(model, asked)
        data, plan = prepare(train, inputs, config, stacklevel=3)
        if measure:
            other = alternative_plan(config, plan)
            alternative = None if other is None else (other, (trial_of(config, plan), trial_of(config, other)))
            plan = measured_plan(plan, alternative, inputs.module, config, data.split, data.order, clock)
        return plan if config.holdout != "none" else plan.with_everything(hold_out_nothing(data.split, None)[0])


def likely_plan(config: Config, inputs: Inputs) -> Plan:
    """Return a plan for large data, before the data are read."""
    facts = likely_facts(config, has_weights=inputs.columns["weight"] is not None)
    return make_plan(config, facts, inputs.module)


def prepare(train: Any, inputs: Inputs, config: Config, *, stacklevel: int) -> tuple["Prepared", Plan]:
    """Read and split interactions as :func:`fit` does; return them with the plan of the fit.

    Args:
        train: source of the interactions.
        inputs: what else was given.
        config: settings.
        stacklevel: of warnings about settings that have no effect, as for ``warnings.warn``.
    """
    refuse_contradictions(config, inputs)
    likely = likely_plan(config, inputs)
    data = Prepared.read(train, inputs, config, likely, ProgressReporter(None, 0))
    plan = make_plan(config, data.facts, inputs.module)
    warn_of_unused(Fit(config, inputs, likely, plan), stacklevel=stacklevel)
    return data, plan


@dataclass(frozen=True)
class Prepared:
    """Data that are ready for training, with the facts that a plan depends on."""

    interactions: Interactions
    split: Split
    facts: DataFacts
    order: np.ndarray | None

    @classmethod
    def read(cls, train: Any, inputs: Inputs, config: Config, likely: Plan, reporter: ProgressReporter) -> "Prepared":
        """Read interactions, keep the asked-for share of the users, and hold out items."""
        require_compiler_memory([likely, alternative_plan(config, likely)], has_text=isinstance(train, str | Path))
        given, holdout = None, config.held_out(is_given=inputs.test is not None)
        with reporter.stage("read"):
            options: dict[str, Any] = {**inputs.columns, **config.reading()}
            if inputs.test is None:
                point = holdout.before if quantile_of(holdout.before or "") is None else None
                needs_time = holdout.rule != "random" and config.holdout != "none" and not config.rows_in_order
                interactions = read_within_memory(train, **options, needs_time=needs_time, before=point)
            else:
                interactions, given = read_with_test(train, inputs.test, inputs.candidates, **options)
            if config.rows_in_order:
                interactions = in_order_of_rows(interactions)
            if holdout.ties == "last":  # the first row among equal times counts as the latest
                interactions = interactions.of_rows(np.s_[::-1])
        with reporter.stage("split"):
            share = (config.user_fraction, key(config.seed, Stream.USERS)) if config.user_fraction < 1 else None
            if share and given is None:
                interactions = draw_users(interactions, *share)
            elif share and given is not None:
                interactions, given = draw_test_users(interactions, given, *share)
            interactions, split = make_split(
                interactions,
                holdout,
                given=given,
                validation=config.validation,
                seed=config.seed,
                needs_test=config.holdout != "none",
            )
            facts, order = find_facts(
                interactions, split, needs_order=likely.uses_order, history=config.history, seed=config.seed
            )
        leave_memory(interactions.user, interactions.item, interactions.time, split.indices, order)
        return cls(interactions, split, facts, order)


def _chosen(plan: Plan, data: Prepared, config: Config, kept: Checkpoint | None) -> Plan:
    """Return the plan with what held-out items are to choose, or as a checkpoint has it."""
    alternative = alternative_plan(config, plan)
    plans = [plan] if alternative is None else [plan, alternative]
    if kept is not None:
        kept.require_same(data=data_of(data.interactions.users, data.interactions.items, data.split, data.order))
        if (resumed := kept.resumed_plan(plans)) is not None:
            return resumed
    if alternative is not None:
        require_plan_memory(alternative, data.split)

    def choose() -> Plan:
        """Return the plan by trials of this process alone."""
        chosen = plan
        if alternative is not None:
            trials = trial_of(config, plan), trial_of(config, alternative)
            chosen = choose_plan((plan, alternative), trials, data.split, data.order)
        return choose_l2(chosen, data.split, data.order)

    ranks = distributed.current()
    return choose() if ranks is None else ranks.first_alone(choose)


def _read_once(
    ranks: distributed.Ranks, train: Any, inputs: Inputs, config: Config, likely: Plan, reporter: ProgressReporter
) -> Prepared:
    """Return what :meth:`Prepared.read` does, read by one process of each machine.

    Raises:
        DistributedError: ranks differ in their settings, files or data.
    """
    ranks.require_equal("settings", settings_of(config, inputs.module) | {"epochs": config.epochs})
    ranks.require_equal("columns", inputs.columns)
    sources = train, inputs.test, inputs.candidates
    ranks.require_equal("files", [os.fspath(one) for one in sources if isinstance(one, str | os.PathLike)])
    data = ranks.once(lambda: Prepared.read(train, inputs, config, likely, reporter))
    ranks.require_equal("data", data_of(data.interactions.users, data.interactions.items, data.split, data.order))
    return data


def _train(
    plan: Plan,
    module: "nn.Module | None",
    data: Prepared,
    config: Config,
    reporter: ProgressReporter,
    kept: Checkpoint | None,
) -> TrainedOnAll:
    """Train on the training interactions, or on all of them where nothing is to be held out."""
    with recording(kept, plan) as recorder:
        if config.holdout == "none":
            return train_on_all(plan, module, data.split, data.order, reporter, recorder=recorder)
        validation = validation_of(data.split, plan.evaluation)
        trained = train_stages(plan.stages, module, data.split, data.order, validation, reporter, recorder=recorder)
    return TrainedOnAll(trained, plan, data.split, data.order)


def _evaluate(recommender: Recommender, kept: Checkpoint | None) -> None:
    """Measure a model, unless a checkpoint has what was measured, and mark the checkpoint as finished."""
    result, split = None if kept is None else kept.result(), recommender.split
    if result is not None:
        recommender.protocol = result["protocol"]
        for name in _MEASURED:
            setattr(recommender, name, as_numbers(result.get(name, {})))
        return
    if split.holdout == "none":
        recommender.protocol = f"not measured: nothing is held out of {counted(len(split.indices), 'interaction')}"
    else:
        recommender.keep(recommender.evaluate())
    if kept is not None:
        measured = {name: finite_or_none(getattr(recommender, name)) for name in _MEASURED}
        kept.finish(protocol=recommender.protocol, **measured)


def _counts(interactions: Interactions, split: Split) -> dict[str, int]:
    """Return the counts that :attr:`Recommender.data` holds."""
    is_unknown, lists, others = ~split.is_known(), split.test_candidates, split.others
    counts = {
        "users": len(interactions.users),
        "items": len(interactions.items),
        "interactions": split.num_interactions,
        "num_rows": interactions.num_rows,
        **interactions.left_out,
        "num_duplicates": split.num_duplicates,
        "num_users_all_seen": split.num_users_all_seen,
        "num_users_too_short": split.num_users_too_short,
        "num_items_unknown": int(is_unknown.sum()),
        "num_test_items_unknown": int(is_unknown[split.tests().items].sum()),
        "num_candidates_unknown": 0 if lists is None else int(is_unknown[lists[lists >= 0]].sum()),
        "num_candidates_seen": split.num_candidates_seen,
    }
    if split.holdout == "time":
        counts |= {
            "num_users_later": 0 if others is None else len(others.users),
            "num_test_repeated": split.num_test_repeated,
        }
    elif others is not None:
        counts |= {
            "num_users_left_out": len(others.users),
            "num_test_items_unknown": int(is_unknown[others.test.items].sum()),
        }
    return counts
