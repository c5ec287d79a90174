"""Settings that are searched, and between which values: around those of the default plan."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastncf.config import LARGEST_INTEGER, Config
from fastncf.data.facts import DataFacts
from fastncf.errors import ConfigError
from fastncf.models import FACTOR_MODELS
from fastncf.plan import Plan, make_plan

LOSSES = "softmax", "bce", "bpr"
"""Losses that are searched for an ``mf`` or ``gmf`` where none was asked for."""

_LEAST_RATE = 1e-6


class Suggests(Protocol):
    """Source of drawn values, such as a trial of Optuna."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number between two others."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Return an integer between two others, both included."""
        ...

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Return one of some values."""
        ...


@dataclass(frozen=True)
class Range:
    """Values of a setting.

    Attributes:
        default: value of the default plan, in the range.
        low: smallest value.
        high: largest value.
        is_count: whether the values are integers.
        is_log: whether ratios count rather than differences.
    """

    default: float
    low: float
    high: float
    is_count: bool
    is_log: bool

    def suggest(self, trial: Suggests, name: str) -> float:
        """Return a value that the trial draws."""
        if self.is_count:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.is_log)
        return trial.suggest_float(name, self.low, self.high, log=self.is_log)


@dataclass(frozen=True)
class Space:
    """Settings around the default plan of each loss.

    Attributes:
        config: what was asked for; its settings are not searched.
        facts: facts of the data.
        plans: default plan of each loss that is searched, the default loss first.
        ranges: for each loss, the ranges of the settings that are searched, by name.
    """

    config: Config
    facts: DataFacts
    plans: Mapping[str, Plan]
    ranges: Mapping[str, Mapping[str, Range]]

    @classmethod
    def of(cls, config: Config, facts: DataFacts) -> "Space":
        """Return the space for some data.

        Args:
            config: what was asked for.
            facts: facts of the data.

        Raises:
            ConfigError: nothing is left to search, or no trainer takes the settings.
        """
        plan = make_plan(config, facts)
        plans = {plan.final.loss: plan}
        if config.loss is None and config.model in FACTOR_MODELS:
            for loss in LOSSES:
                if loss not in plans and (other := _plan_of(config, facts, loss)) is not None:
                    plans[loss] = other
        ranges = {loss: _ranges(config, plan) for loss, plan in plans.items()}
        if not any(ranges.values()):
            raise ConfigError(
                f"tune: model={config.model!r:.80} has no setting that is left to search; expected a model "
                f"that is trained, and fewer given settings"
            )
        return cls(config, facts, plans, ranges)

    @property
    def settings(self) -> list[str]:
        """Names of the settings that are searched."""
        names = [name for ranges in self.ranges.values() for name in ranges]
        return list(dict.fromkeys([*(["loss"] if len(self.plans) > 1 else []), *names]))

    def defaults(self) -> list[dict[str, Any]]:
        """Return the parameters of the default plan of each loss, as a trial draws them."""
        return [
            {
                **({"loss": loss} if len(self.plans) > 1 else {}),
                **{f"{loss}.{name}": _exact(values.default, values) for name, values in ranges.items()},
            }
            for loss, ranges in self.ranges.items()
        ]

    def suggest(self, trial: Suggests) -> Config:
        """Return settings that a trial draws; those that were asked for stay."""
        losses = list(self.plans)
        loss = trial.suggest_categorical("loss", losses) if len(losses) > 1 else losses[0]
        return self.configured(
            loss, {name: values.suggest(trial, f"{loss}.{name}") for name, values in self.ranges[loss].items()}
        )

    def configured(self, loss: str, settings: Mapping[str, Any]) -> Config:
        """Return the asked-for settings with a loss and searched ones."""
        changes: dict[str, Any] = {name: _exact(value, self.ranges[loss][name]) for name, value in settings.items()}
        if "negatives_exponent" in changes:
            changes["negatives"] = "popularity"
        if self.config.loss is None:
            changes["loss"] = loss
        return replace(self.config, **changes)


def _plan_of(config: Config, facts: DataFacts, loss: str) -> Plan | None:
    """Return the default plan of a loss; None where no trainer takes it with the settings."""
    try:
        return make_plan(replace(config, loss=loss), facts)
    except ConfigError:
        return None


def _ranges(config: Config, plan: Plan) -> dict[str, Range]:
    """Return the ranges around a plan, of the settings that were not asked for."""
    stage = plan.final
    if not stage.epochs and len(plan.stages) == 1:
        return {}
    trained = next(one for one in reversed(plan.stages) if one.epochs)  # given epochs and rates are those of it
    ranges = {
        "learning_rate": _around(trained.learning_rate, 4, least=_LEAST_RATE),
        "dim": _around(stage.dim, 2, is_count=True),
        "epochs": _around(trained.epochs, 2, is_count=True),
        "num_negatives": _around(stage.num_negatives, 4, is_count=True),
    }
    if trained.l2:
        ranges["l2"] = _around(trained.l2, 8, least=_LEAST_RATE)
    if stage.dropout:
        ranges["dropout"] = Range(stage.dropout, 0.0, 0.9, is_count=False, is_log=False)
    if stage.negatives == "popularity" and config.negatives is None:
        ranges["negatives_exponent"] = Range(stage.negatives_exponent, 0.0, 1.0, is_count=False, is_log=False)
    return {name: values for name, values in ranges.items() if getattr(config, name) is None}


def _around(value: float, factor: int, *, is_count: bool = False, least: float = 1) -> Range:
    """Return the range from a fraction of a value to its multiple."""
    low, high = value / factor, value * factor
    if is_count:
        low, high = max(1, round(low)), min(LARGEST_INTEGER, round(high))
    return Range(value, max(low, least), max(high, least), is_count, is_log=True)


def _exact(value: float, values: Range) -> float:
    """Return a value as an integer where it counts something, and with four digits otherwise, within its range."""
    if values.is_count:
        return int(value)
    return min(max(float(f"{value:.4g}"), values.low), values.high)
