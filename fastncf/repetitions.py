"""``repeat()``: the same fit with several seeds, on data that are read and split once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np

from fastncf.asked import Asked, read_asked, takes_asked
from fastncf.config import require_count, require_seed, show
from fastncf.data.titles import read_titles
from fastncf.errors import ConfigError, format_bytes, printable
from fastncf.numpy_errors import usual_errors
from fastncf.plan import Plan, make_plan
from fastncf.plan_memory import require_plan_memory
from fastncf.processes import use_one_torch_thread_after_fork
from fastncf.progress import progress_shown
from fastncf.recommender import Recommender
from fastncf.train import Prepared, fit_prepared, likely_plan
from fastncf.trainers.loop import Progress, ProgressReporter
from fastncf.unused import Fit, refuse_contradictions, warn_of_unused

_MOST_SEEDS = 10_000


@dataclass(frozen=True, repr=False)
class Repetitions:
    """Fits with S seeds on the same data, split and candidates.

    Attributes:
        seeds: the seeds, of parameters, negatives, orders and dropout.
        recommenders: the fitted models, in the order of the seeds.
    """

    seeds: tuple[int, ...]
    recommenders: tuple[Recommender, ...]

    @property
    def metrics(self) -> dict[str, list[float]]:
        """Each metric of each fit by its label, in the order of the seeds."""
        return {label: [rec.metrics[label] for rec in self.recommenders] for label in self.recommenders[0].metrics}

    @property
    def protocol(self) -> str:
        """The protocol of the metrics, in words."""
        return f"{self.recommenders[0].protocol}; {len(self.seeds)} seeds"

    def means(self) -> dict[str, float]:
        """Return the mean of each metric over the seeds."""
        return {label: float(np.mean(values)) for label, values in self.metrics.items()}

    def deviations(self) -> dict[str, float]:
        """Return the standard deviation of each metric over the seeds, with S - 1 degrees of freedom."""
        return {label: float(np.std(values, ddof=1)) for label, values in self.metrics.items()}

    def __repr__(self) -> str:
        """Return means and deviations, a line for each metric."""
        means, deviations = self.means(), self.deviations()
        lines = [f"  {label}: {means[label]:.4f} ± {deviations[label]:.4f}" for label in means]
        heading = f"Repetitions of {len(self.seeds)} seeds: means ± standard deviations"
        return "\n".join([heading, *map(printable, lines)])


@takes_asked
def repeat(
    train: Any,
    *,
    seeds: int | Sequence[int] = 5,
    model: str | None = None,
    titles: Any | None = None,
    callback: Callable[[Progress], object] | None = None,
    progress: bool = True,
    **asked: Unpack[Asked],
) -> Repetitions:
    """Fit with several seeds, and return the fits with the means and deviations of their metrics.

    The data are read and split once, and the candidates are the same for all: those of the setting ``seed``. What
    differs is the training: initial parameters, negatives, the order of an epoch, dropout. Choices by held-out items,
    such as that of ``l2``, are made for each seed.

    Args:
        train: see :func:`fastncf.fit`, as for all other arguments.
        seeds: how many seeds, at least 2, from the setting ``seed`` on; or the seeds themselves.
        model: name of a model.
        **asked: data and settings by name, see :func:`fastncf.fit`.

    Raises:
        ConfigError: there are fewer than two seeds, two of them are equal, or the model is a module, which a training
            changes in place; and all that :func:`fastncf.fit` raises.
    """
    use_one_torch_thread_after_fork()
    if model is not None and not isinstance(model, str):
        raise ConfigError(
            f"repeat: model={show(model)}: a module is trained in place, so that it serves one fit; expected the name "
            f"of a model"
        )
    with usual_errors(), progress_shown(callback, is_shown=progress) as callback:
        config, inputs = read_asked(model, asked)
        chosen = chosen_seeds(seeds, config.seed)
        if config.holdout == "none":
            raise ConfigError("repeat: holdout=None measures nothing; expected items that are held out")
        refuse_contradictions(config, inputs)
        likely = likely_plan(config, inputs)
        reporter = ProgressReporter(callback, likely.num_epochs)
        data = Prepared.read(train, inputs, config, likely, reporter)
        item_titles = None if titles is None else read_titles(titles, data.interactions.items)
        fitted, warned = [], set[str]()
        for number, seed in enumerate(chosen):
            plan = make_plan(replace(config, seed=seed), data.facts)
            if number == 0:
                warned = warn_of_unused(Fit(config, inputs, likely, plan), stacklevel=2)
                require_plan_memory(plan, data.split)
            else:
                reporter = ProgressReporter(callback, plan.num_epochs)
            reporter.expected = format_bytes(plan.cost.memory_bytes)
            chosen_plans: list[Plan] = []
            fitted.append(
                fit_prepared(data, plan, config, None, item_titles, reporter, when_chosen=chosen_plans.append)
            )
            warned = warn_of_unused(Fit(config, inputs, likely, *chosen_plans), warned, stacklevel=2)
        return Repetitions(chosen, tuple(fitted))


def chosen_seeds(seeds: Any, first: int) -> tuple[int, ...]:
    """Return the seeds that are asked for.

    Raises:
        ConfigError: there are fewer than two, more than 10,000 or two that are equal, or one is too large.
    """
    seeds = seeds.tolist() if isinstance(seeds, np.ndarray) else seeds
    is_listed = isinstance(seeds, list | tuple | range)
    number = len(seeds) if is_listed else require_count("seeds", seeds)
    if number > _MOST_SEEDS:
        raise ConfigError(f"seeds={show(seeds)}: expected at most {_MOST_SEEDS:,} seeds")
    chosen = tuple(map(require_seed, seeds if is_listed else range(first, first + number)))
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise ConfigError(f"seeds={show(seeds)}: expected at least 2 different seeds")
    return chosen
