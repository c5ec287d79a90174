"""Settings that a fit cannot use beside the others: contradictions are refused, the rest is said in a warning.

Each row of :data:`CONTRADICTIONS` and :data:`UNUSED` is one situation. A setting counts as given where it differs from
its default: a default that was given cannot be told from one that was left out, and makes no difference.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from fastncf.config import Config
from fastncf.errors import ConfigError, UnusedSettingWarning
from fastncf.plan import AS_ASKED_FOR, Plan, make_plan
from fastncf.stage import BY_STATES

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Inputs:
    """Inputs of a fit beside its settings.

    Attributes:
        test: source of the test set, or None.
        candidates: source of the candidates, or None.
        columns: given name of the user, item, time, rating and weight column, or None for each.
        module: module of the user's own, or None.
    """

    test: Any
    candidates: Any
    columns: dict[str, str | None]
    module: "nn.Module | None"


class Contradiction(NamedTuple):
    """Inputs and settings of which one would be ignored, so that the fit is refused.

    Attributes:
        holds: whether the situation is that of a fit.
        message: the error, with the settings by their names in braces.
    """

    holds: Callable[[Config, Inputs], bool]
    message: str


_FOR_OTHER_USERS = ("mf", "gmf", "mlp", "neumf", "popularity")
"""Models that rank items for users whom they were not trained on."""

CONTRADICTIONS = (
    Contradiction(
        lambda config, inputs: inputs.candidates is not None and inputs.test is None,
        "candidates: expected test= beside it; candidates are the negatives of its rows",
    ),
    Contradiction(
        lambda config, inputs: config.holdout == "none" and inputs.test is not None,
        "holdout=None: holds nothing out, and test= gives what is held out; expected one of them",
    ),
    Contradiction(
        lambda config, inputs: config.holdout == "none" and config.validation,
        "holdout=None: holds nothing out, and validation=True needs an item of each user; expected one of them",
    ),
    Contradiction(
        lambda config, inputs: inputs.test is not None and "split" in _given(config, ("split",)),
        "split={split!r}: says which items are held out, and test= gives them; expected no test=, or no split=",
    ),
    Contradiction(
        lambda config, inputs: inputs.test is not None and config.held_out(is_given=True).amount != 1,
        "holdout={holdout!r}: says how many items are held out, and test= gives them; expected one of them",
    ),
    Contradiction(
        lambda config, inputs: config.before is not None and inputs.test is not None,
        "before={before!r}: says which items are held out, and test= gives them; expected one of them",
    ),
    Contradiction(
        lambda config, inputs: config.before is not None and config.holdout != "one",
        "before={before!r}: holds out all that is not earlier, and holdout={holdout!r} something else; expected one of "
        "them",
    ),
    Contradiction(
        lambda config, inputs: config.before is not None and config.split != "latest",
        "before={before!r}: holds out all that is not earlier, and split={split!r} something else; expected one of "
        "them",
    ),
    Contradiction(
        lambda config, inputs: config.before is not None and config.rows_in_order,
        "before={before!r}: needs times, and rows_in_order=True tells the order of each user's rows alone; expected "
        "one of them",
    ),
    Contradiction(
        lambda config, inputs: config.before is not None and config.test_users is not None,
        "test_users={test_users!r}: leaves users out of the training, and before={before!r} holds out what all of them "
        "did later; expected one of them",
    ),
    Contradiction(
        lambda config, inputs: config.test_users is not None and inputs.test is not None,
        "test_users={test_users!r}: leaves users out of the training, and test= gives the test set; expected one of "
        "them",
    ),
    Contradiction(
        lambda config, inputs: config.test_users is not None and config.holdout == "none",
        "test_users={test_users!r}: leaves users out of the training, and holdout=None nobody; expected one of them",
    ),
    Contradiction(
        lambda config, inputs: (
            config.test_users is not None and (inputs.module is not None or config.model not in _FOR_OTHER_USERS)
        ),
        "test_users={test_users!r}: needs a model that knows users by their histories; expected one of "
        f"{', '.join(_FOR_OTHER_USERS)}",
    ),
)
"""Situations that are refused before anything is read."""


class Fit(NamedTuple):
    """A fit that is about to train.

    Attributes:
        config: what was asked for.
        inputs: what was given beside it.
        likely: plan before the data were read.
        plan: what will be done.
    """

    config: Config
    inputs: Inputs
    likely: Plan
    plan: Plan


class Unused(NamedTuple):
    """Settings that have no effect in one situation.

    Attributes:
        settings: names of fields of :class:`~fastncf.config.Config`, or of columns.
        holds: whether the situation is that of a fit.
        reason: why they have none, as the end of a sentence.
    """

    settings: tuple[str, ...]
    holds: Callable[[Fit], bool]
    reason: str


_OF_TRAINING = (
    *("dim", "init_std", "layers", "dropout", "loss", "num_negatives", "negatives", "negatives_exponent", "optimizer"),
    *("horizon", "budget", "epochs", "batch_size", "learning_rate", "schedule", "l2", "shuffle"),
    "precision",
)
SETTINGS_OF_MODELS = {
    "mf": frozenset[str](),
    "gmf": frozenset[str](),
    "popularity": frozenset[str](),
    "mlp": frozenset({"layers", "dropout"}),
    "neumf": frozenset({"layers", "dropout"}),
}
"""Which of ``layers`` and ``dropout`` each registered model reads; modules of the user's own may read both."""

_WITHOUT_EXPONENT = ("uniform",)

UNUSED = (
    Unused(
        ("model", "dim", "mlp_dim", "init_std", "layers", "dropout"),
        lambda fit: fit.inputs.module is not None,
        "the model is a module of your own, with parameters of its own",
    ),
    Unused(
        ("validation", "patience"),
        lambda fit: not fit.plan.num_epochs,
        "the model needs no training, and no epoch is measured; a second item of each user is held out all the same",
    ),
    Unused(_OF_TRAINING, lambda fit: not fit.plan.num_epochs, "the model needs no training"),
    Unused(
        ("layers", "dropout"),
        lambda fit: _trains(fit) and not _reads(fit, "layers") and not _reads(fit, "dropout"),
        "the model has no hidden layers",
    ),
    Unused(("layers",), lambda fit: _trains(fit) and not _reads(fit, "layers"), "the model has no hidden layers"),
    Unused(
        ("batch_size",),
        lambda fit: _trains(fit) and all(reasons.get("batch_size") != AS_ASKED_FOR for reasons in fit.plan.reasons),
        "sgd takes a step for each interaction",
    ),
    Unused(
        ("precision",),
        lambda fit: _trains(fit) and all(stage.precision != fit.config.precision for stage in fit.plan.stages),
        "the CPU kernel for it computes in float32",
    ),
    Unused(
        ("negatives_exponent",),
        lambda fit: _trains(fit) and all(stage.negatives in _WITHOUT_EXPONENT for stage in fit.plan.stages),
        "negatives are drawn uniformly",
    ),
    Unused(
        ("horizon",),
        lambda fit: _trains(fit) and all(stage.horizon == 1 for stage in fit.plan.stages),
        "it is for softmax over histories in their order",
    ),
    Unused(
        ("budget",),
        lambda fit: _trains(fit) and _is_planned_alike(fit, budget="best"),
        "every setting that it chooses is given",
    ),
    Unused(
        ("l2",), lambda fit: not _has_embeddings(fit.inputs.module), "the module has no embedding of users or items"
    ),
    Unused(
        ("rating",),
        lambda fit: fit.config.min_rating is None,
        "ratings are read only to leave out rows by min_rating=",
    ),
    Unused(
        ("num_candidates", "distinct_candidates"),
        lambda fit: fit.inputs.candidates is not None,
        "candidates= gives the lists of the test",
    ),
    Unused(
        ("candidate_sampling",),
        lambda fit: fit.inputs.candidates is not None,
        "candidates= gives the lists of the test",
    ),
    Unused(
        ("full_ranking", "metrics", "candidate_sampling"),
        lambda fit: fit.config.holdout == "none",
        "nothing is held out, so that nothing is measured",
    ),
    Unused(("ties",), lambda fit: fit.config.rows_in_order, "no two rows have the same time"),
    Unused(
        ("time", "time_format", "dayfirst", "ties"),
        lambda fit: fit.likely.data.holdout == "random" and not fit.likely.uses_order,
        "neither the held-out items nor the model depend on times",
    ),
    Unused(
        ("time", "time_format", "dayfirst", "ties"),
        lambda fit: fit.inputs.test is not None and not fit.config.validation and not fit.likely.uses_order,
        "test= gives the held-out items, and the model does not depend on times",
    ),
)
"""Situations in which settings are not used, and which are said in a warning before the training."""


def refuse_contradictions(config: Config, inputs: Inputs) -> None:
    """Raise a ConfigError for the first of :data:`CONTRADICTIONS` that holds."""
    for contradiction in CONTRADICTIONS:
        if contradiction.holds(config, inputs):
            raise ConfigError(contradiction.message.format(**config.to_dict()))


def warn_of_unused(fit: Fit, warned: set[str] | None = None, *, stacklevel: int) -> set[str]:
    """Warn of settings that were given and have no effect, each once.

    Args:
        fit: the fit.
        warned: settings that were warned of before, see what is returned.
        stacklevel: as for ``warnings.warn``.

    Returns:
        The settings that have now been warned of.
    """
    warned = set(warned or ())
    for unused in UNUSED:
        columns = {name: fit.inputs.columns.get(name) for name in unused.settings}
        given = {name: column for name, column in columns.items() if column is not None}
        given |= _given(fit.config, unused.settings)
        given = {name: value for name, value in given.items() if name not in warned}
        if given and unused.holds(fit):
            warned |= given.keys()
            listed = ", ".join(f"{name}={value!r:.80}" for name, value in given.items())
            warnings.warn(f"{listed}: no effect, since {unused.reason}", UnusedSettingWarning, stacklevel + 1)
    return warned


def _given(config: Config, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of some names that differ from their defaults."""
    known = Config.__dataclass_fields__
    values = {name: getattr(config, name) for name in names if name in known}
    return {name: value for name, value in values.items() if value != known[name].default}


def _trains(fit: Fit) -> bool:
    """Return whether a registered model, or one of the user's own, is trained at all."""
    return fit.plan.num_epochs > 0


def _reads(fit: Fit, name: str) -> bool:
    """Return whether a stage of the plan reads a setting of :data:`SETTINGS_OF_MODELS`.

    Dropout also applies to states that run through histories.
    """
    everything = frozenset({"layers", "dropout"})
    return any(
        name in SETTINGS_OF_MODELS.get(stage.model, everything) or (name == "dropout" and stage.trainer in BY_STATES)
        for stage in fit.plan.stages
    )


def _is_planned_alike(fit: Fit, **changes: Any) -> bool:
    """Return whether other settings lead to the same training."""
    other = make_plan(replace(fit.config, **changes), fit.plan.data, fit.inputs.module)
    return (other.stages, other.l2_trials) == (fit.plan.stages, fit.plan.l2_trials)


def _has_embeddings(module: "nn.Module | None") -> bool:
    """Return whether l2 applies to embeddings of a module; it does to those of registered models."""
    if module is None:
        return True
    from fastncf.models.layers import l2_embeddings

    return bool(l2_embeddings(module))
