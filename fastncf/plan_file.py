"""A plan as a TOML file of settings, which ``fit --config`` takes to do the same again."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastncf.config import Config
from fastncf.errors import ConfigError, counted
from fastncf.models import names as model_names
from fastncf.plan import BY_STATES, Plan

_CHOSEN = "dim", "init_std", "loss", "num_negatives", "negatives", "history", "epochs", "learning_rate", "l2", "dropout"
"""Settings that a plan chooses, and that a Config of the same value asks for."""


def settings_to_repeat(config: Config, plan: Plan) -> dict[str, Any]:
    """Return settings that lead to the same plan for the same data: those that were asked for, and those chosen.

    The device and the dtype of products are left to the machine, unless they were asked for. Of a model of
    ``repeat()`` they lead to the same parameters, and to candidates that are drawn with the model's seed.

    Args:
        config: what was asked for.
        plan: what was done.

    Raises:
        ConfigError: the model is a module of the user's own, which no setting names, or one of ``repeat()`` with a seed
            that the split does not have.
    """
    stage = plan.final
    if stage.model not in model_names():
        raise ConfigError(
            f"plan: the model is a module of your own ({stage.model:.80}), which no file of settings can name; "
            f"expected a registered model"
        )
    known = Config.__dataclass_fields__
    config = _with_seed_of(config, stage.seed)
    plain = config.to_dict()
    asked = {name: value for name, value in plain.items() if getattr(config, name) != known[name].default}
    if not plan.num_epochs:
        return {"model": stage.model, **asked}
    chosen = _of_one_stage(plan) if len(plan.stages) == 1 else _of_pretraining(config, plan)
    if len(plan.stages) == 1:
        asked.pop("budget", None)  # all that it would choose is chosen
    return {"model": stage.model, **asked, **chosen}


def _with_seed_of(config: Config, seed: int) -> Config:
    """Return the settings with the seed of a training, which a model of ``repeat()`` does not share with the data.

    Raises:
        ConfigError: the split is drawn with the other seed, so that no settings lead to the same model.
    """
    is_drawn = config.split == "random" or config.test_users is not None or config.user_fraction < 1
    if seed != config.seed and is_drawn:
        raise ConfigError(
            f"plan: the model was trained with seed {seed} on data that were drawn with seed {config.seed}, which no "
            f"file of settings can name; expected a model of fit()"
        )
    return replace(config, seed=seed)


def _of_one_stage(plan: Plan) -> dict[str, Any]:
    """Return the settings of a plan of one stage."""
    stage = plan.final
    chosen: dict[str, Any] = {"optimizer": stage.optimizer}
    chosen |= {name: getattr(stage, name) for name in _CHOSEN}
    if stage.negatives == "popularity":
        chosen["negatives_exponent"] = stage.negatives_exponent
    if stage.batch_size != 1 + stage.num_negatives:  # sgd takes a step for each interaction, and leaves no choice
        chosen["batch_size"] = stage.batch_size
    if stage.dropout == 0 and stage.trainer not in BY_STATES:
        del chosen["dropout"]
    return chosen


def _of_pretraining(config: Config, plan: Plan) -> dict[str, Any]:
    """Return the settings of a plan whose layers are trained after a first model by sgd.

    A setting of both that the plan has chosen differently for each is left out, since a given one is that of both.
    """
    first, layers = plan.stages[:2]
    chosen: dict[str, Any] = {"optimizer": "pretrain", "dim": config.dim or plan.final.dim, "history": first.history}
    shared = ["loss", "num_negatives", "negatives"] + ["negatives_exponent"] * (first.negatives == "popularity")
    for name in shared:
        if getattr(first, name) == getattr(layers, name):
            chosen[name] = getattr(first, name)
    chosen |= {name: getattr(layers, name) for name in ("epochs", "learning_rate", "l2", "batch_size", "dropout")}
    return chosen


def to_toml(settings: Mapping[str, Any], comments: tuple[str, ...] = ()) -> str:
    """Return settings as TOML, one on each line, below lines of comments.

    Args:
        settings: numbers, text, truth values, and lists of these; what is None is left out.
        comments: lines, whose control characters have been escaped.
    """
    lines = [f"# {line}".rstrip() for line in comments]
    lines += [f"{name} = {_toml(value)}" for name, value in settings.items() if value is not None]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"plan: {value} is no setting")
    return repr(value)


def sizes(plan: Plan) -> str:
    """Return the numbers of rows, users and items of a plan in words."""
    data = plan.data
    return f"{counted(data.num_rows, 'row')}, {counted(data.num_users, 'user')}, {counted(data.num_items, 'item')}"
