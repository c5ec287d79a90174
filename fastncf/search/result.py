"""Result of a search: settings as a configuration file, the trials, and a picture of their importance."""

import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from fastncf.config import Config
from fastncf.errors import DataError, FastNCFError, counted
from fastncf.files import replaced
from fastncf.plan_file import to_toml
from fastncf.search.space import Space

if TYPE_CHECKING:
    import optuna

_FEWEST_FOR_IMPORTANCE = 4
"""Complete trials from which on importances are told."""


@dataclass(frozen=True, repr=False)
class Tuned:
    """Result of :func:`fastncf.tune`.

    Attributes:
        config: the best settings, to fit with; those that were asked for where no trial has ended.
        ndcg: NDCG@k of the best trial on the items that were held out for the search, in the whole catalogue; None
            where no trial has ended.
        default_ndcg: the same of the best trial of the default settings; None where none has ended.
        trials: a row for each trial: trial (from 1), state (complete, pruned or failed), ndcg, seconds, and the value
            of each setting that is searched.
        importance: for each setting, the share of the spread of the NDCG among the better trials that it accounts for
            (PED-ANOVA, Watanabe et al. 2023); empty where fewer than four trials have ended.
        study: file of the trials, if there is one.
    """

    config: Config
    ndcg: float | None
    default_ndcg: float | None
    trials: pl.DataFrame
    importance: dict[str, float]
    study: Path | None

    @classmethod
    def of(cls, study: "optuna.Study", space: Space, path: str | Path | None) -> "Tuned":
        """Return the result of a study."""
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        complete = [trial for trial in trials if trial.value is not None]
        best = max(complete, key=lambda trial: trial.value or 0.0, default=None)
        defaults = space.defaults()
        of_defaults = [trial.value for trial in complete if trial.params in defaults and trial.value is not None]
        config = space.config
        if best is not None:
            loss, settings = _settings(space, best.params)
            config = space.configured(loss, settings)
        return cls(
            config,
            None if best is None else best.value,
            max(of_defaults, default=None),
            pl.DataFrame([_row(space, trial) for trial in trials], schema=_schema(space)),
            _importance(study, space, best),
            None if path is None else Path(path),
        )

    def __str__(self) -> str:
        """Return the best settings and what they are worth, in a few lines."""
        states = self.trials["state"].to_list()
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed"))
        lines = [f"{counted(len(states), 'trial')}: {counts}"]
        if self.ndcg is None:
            lines.append("no trial has ended within the budget; expected more minutes")
        else:
            default = "" if self.default_ndcg is None else f"; of the defaults: {self.default_ndcg:.4f}"
            where = "on items held out for the search, in the whole catalogue"
            lines.append(f"NDCG@{max(self.config.cutoffs)} of the best {where}: {self.ndcg:.4f}{default}")
        lines += [f"  {name:<18} {share:4.0%} of the importance" for name, share in self.importance.items()]
        return "\n".join((*lines, self.to_toml().rstrip()))

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "config": self.config.to_dict(),
            "ndcg": self.ndcg,
            "default_ndcg": self.default_ndcg,
            "trials": self.trials.to_dicts(),
            "importance": self.importance,
        }

    def to_toml(self) -> str:
        """Return the settings that differ from the defaults of :class:`fastncf.Config` as TOML."""
        plain = Config()
        changed = {
            field.name: getattr(self.config, field.name)
            for field in fields(Config)
            if getattr(self.config, field.name) != getattr(plain, field.name)
        }
        return to_toml(changed) + "\n"

    def write(self, path: str | Path) -> Path:
        """Write :meth:`to_toml` to a file, which ``fastncf fit --config`` reads, and return its path.

        Raises:
            DataError: the file cannot be written.
        """
        target = Path(path)
        try:
            with replaced(target) as file:
                file.write_text(self.to_toml(), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{target}: cannot be written ({error.strerror or error})") from None
        return target

    def write_picture(self, path: str | Path) -> Path:
        """Draw :attr:`importance` as an SVG file, and return its path.

        Raises:
            FastNCFError: a package that draws is not installed, or too few trials have ended.
            DataError: the file cannot be written.
        """
        from fastncf.report import write_bars

        if not self.importance:
            raise FastNCFError(
                f"tune: {path}: a picture of the importance of settings needs {_FEWEST_FOR_IMPORTANCE} ended trials; "
                f"expected more minutes"
            )
        return write_bars(self.importance, "share of the importance", Path(path))


def _settings(space: Space, parameters: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the loss and the searched settings of a trial by their names."""
    loss = parameters.get("loss", next(iter(space.plans)))
    prefix = f"{loss}."
    return loss, {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


def _schema(space: Space) -> dict[str, Any]:
    """Return the columns of the table of trials."""
    counts = {name for ranges in space.ranges.values() for name, values in ranges.items() if values.is_count}
    types = {
        name: pl.String if name == "loss" else pl.Int64 if name in counts else pl.Float64 for name in space.settings
    }
    return {"trial": pl.Int64, "state": pl.String, "ndcg": pl.Float64, "seconds": pl.Float64, **types}


def _row(space: Space, trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    """Return a trial as a row of the table."""
    loss, settings = _settings(space, trial.params)
    state = trial.state.name.lower()
    return {
        "trial": trial.number + 1,
        "state": {"fail": "failed"}.get(state, state),
        "ndcg": trial.value,
        "seconds": trial.user_attrs.get("seconds"),
        **dict.fromkeys(space.settings),
        **({"loss": loss} if "loss" in space.settings else {}),
        **settings,
    }


def _importance(study: "optuna.Study", space: Space, best: "optuna.trial.FrozenTrial | None") -> dict[str, float]:
    """Return the importance of each setting of the best loss, and of the choice of the loss, the largest first."""
    import optuna

    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    if best is None or len(complete) < _FEWEST_FOR_IMPORTANCE:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of parameters that few trials have, such as those of a loss that is not the best
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    loss, _ = _settings(space, best.params)
    kept = {name.removeprefix(f"{loss}."): share for name, share in found.items() if _is_of(name, loss)}
    total = sum(kept.values())
    return {name: share / total for name, share in sorted(kept.items(), key=lambda item: -item[1])} if total > 0 else {}


def _is_of(name: str, loss: str) -> bool:
    """Return whether a parameter is the choice of the loss, or a setting of a certain one."""
    return name == "loss" or name.startswith(f"{loss}.")
