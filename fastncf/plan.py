"""Planning of a fit: settings and facts of the data and the machine become a frozen plan with reasons.

The choice of the optimizer, the trainer and the device is in this file and nowhere else; the values are those of
:mod:`fastncf.recipes`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from fastncf.accelerators import may_have_device
from fastncf.config import Config, show
from fastncf.cost import Cost, estimate
from fastncf.data.facts import DataFacts
from fastncf.data.split import Split
from fastncf.errors import ConfigError, InsufficientMemoryError, counted, printable
from fastncf.memory import require_torch
from fastncf.models import FACTOR_MODELS
from fastncf.models import names as registered_names
from fastncf.models.factored import NEEDS_NO_TRAINING
from fastncf.recipes import (
    GENERAL,
    L2_FULL_SEARCH_UP_TO,
    L2_SEARCH_UP_TO,
    LARGE_FROM,
    LOSS_TRIALS_UP_TO,
    NEGATIVES_OF_SOFTMAX,
    PRETRAINING,
    PRETRAINING_FROM_DIM,
    Recipe,
    adam_recipes,
    fine_tuning_recipes,
    is_sparse,
    sgd_recipes,
    states_recipes,
)
from fastncf.stage import BY_STATES, Stage
from fastncf.trainers import choose

if TYPE_CHECKING:
    from torch import nn


AS_ASKED_FOR = "as asked for"
"""Reason for a setting that was given."""

OPTIMIZERS = "pretrain", "sgd", "adam"
"""Optimizers in the order in which they are tried where none was asked for."""

_EXPECTED_TRIALS = 2


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Settings of the evaluation, see :class:`~fastncf.config.Config`; a ``patience`` of 0 never stops early."""

    num_candidates: int
    distinct_candidates: bool
    k: int
    full_ranking: bool
    validation: bool
    patience: int
    seed: int


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan:
    """Stages of training, one after the other, and the evaluation of a fit.

    Attributes:
        stages: the last one is the model that the fit returns.
        reasons: for each stage a sentence for each of its settings that the plan chose.
        passed_over: for each stage, why the trainers before the chosen one do not train it, by name.
        l2_trials: empty, or the stage that is trained with several l2 to choose that of the first stage.
        evaluation: how held-out items are ranked.
        data: facts of the data.
        cost: memory and time to expect.
    """

    stages: tuple[Stage, ...]
    reasons: tuple[dict[str, str], ...]
    passed_over: tuple[dict[str, str], ...]
    l2_trials: tuple[Stage, ...]
    evaluation: EvaluationSettings
    data: DataFacts
    cost: Cost

    @property
    def final(self) -> Stage:
        """Last stage, whose model the fit returns."""
        return self.stages[-1]

    @property
    def num_epochs(self) -> int:
        """Number of epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def model_in_words(self) -> str:
        """The model and what it was trained by, without settings that such a model does not have."""
        stage = self.final
        if stage.model in NEEDS_NO_TRAINING:
            return f"{stage.model}, which needs no training"
        dim = f", dim {stage.dim}" if stage.model in registered_names() else ""
        return f"{stage.model:.80}{dim}, loss {stage.loss:.80}, history {stage.history}, trained by {stage.optimizer}"

    @property
    def uses_order(self) -> bool:
        """True if a stage is trained on histories in their order."""
        return any(stage.history == "sequence" for stage in self.stages)

    @property
    def is_pretrained(self) -> bool:
        """True if the model starts from factors that are trained before."""
        return self.final.start != "random"

    def with_everything(self, split: Split) -> "Plan":
        """Return the plan for another split of the items, such as one without held-out ones; what is done stays."""
        facts = replace(
            self.data,
            num_users=split.num_users,
            num_items=split.num_items,
            num_interactions=len(split.indices),
            holdout=split.holdout,
        )
        return replace(self, data=facts)

    def with_l2(self, l2: float, reason: str) -> "Plan":
        """Return the plan with another l2 in its first stage, and no search for it."""
        stages = (replace(self.stages[0], l2=l2), *self.stages[1:])
        reasons = ({**self.reasons[0], "l2": reason}, *self.reasons[1:])
        return replace(self, stages=stages, reasons=reasons, l2_trials=())

    def with_reason(self, name: str, reason: str) -> "Plan":
        """Return the plan with another reason for a setting of its last stage."""
        return replace(self, reasons=(*self.reasons[:-1], {**self.reasons[-1], name: reason}))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values that JSON can hold."""
        return {
            "stages": [stage.to_dict() for stage in self.stages],
            "reasons": list(self.reasons),
            "passed_over": list(self.passed_over),
            "l2_trials": [stage.to_dict() for stage in self.l2_trials],
            "evaluation": asdict(self.evaluation),
            "data": asdict(self.data),
            "cost": asdict(self.cost),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Plan":
        """Return the plan that :meth:`to_dict` described."""
        return cls(
            stages=tuple(map(Stage.from_dict, values["stages"])),
            reasons=tuple(values["reasons"]),
            passed_over=tuple(values["passed_over"]),
            l2_trials=tuple(map(Stage.from_dict, values["l2_trials"])),
            evaluation=EvaluationSettings(**values["evaluation"]),
            data=DataFacts(**values["data"]),
            cost=Cost(**values["cost"]),
        )

    def __str__(self) -> str:
        """Describe the plan in lines for people: each choice with its reason."""
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        """Return what is trained, on what, in four lines; ``str()`` has the choices and their reasons."""
        data = self.data
        rows = {
            "model": self.model_in_words,
            "epochs": f"{self.num_epochs:,} in {counted(len(self.stages), 'stage')}",
            "data": f"{counted(data.num_interactions, 'training interaction')} of {counted(data.num_users, 'user')} "
            f"with {counted(data.num_items, 'item')}",
            "expect": self.cost,
        }
        return "\n".join(("Plan", *(printable(f"  {name}: {value}") for name, value in rows.items())))

    def _repr_html_(self) -> str:
        """Return the choices and their reasons as text of one width, which notebooks show."""
        return f"<pre>{escape(str(self))}</pre>"

    def lines(self, name_of: Callable[[str], str] = str) -> list[str]:
        """Return the lines of ``str(plan)``.

        Args:
            name_of: gives what a setting is called, such as the option of a command line.
        """
        return [printable(line) for line in _describe(self, name_of)]


def likely_facts(config: Config, *, has_weights: bool = False) -> DataFacts:
    """Return facts of large data with times, for a first plan before the data are read.

    Such a plan refuses settings that are invalid for all data, and tells how many epochs to expect.

    Args:
        config: what was asked for.
        has_weights: whether a column of weights is named.
    """
    return DataFacts(
        num_users=1_000_000,
        num_items=1_000,
        num_interactions=LARGE_FROM,
        num_rows=LARGE_FROM,
        has_order=config.split != "random",
        order_reason="large data with times are assumed",
        holdout=config.held_out().rule,
        has_weights=has_weights,
    )


def make_plan(config: Config, data: DataFacts, module: "nn.Module | None" = None) -> Plan:
    """Choose everything that ``config`` leaves open.

    Args:
        config: what was asked for.
        data: facts of the data, from :func:`fastncf.data.facts.find_facts` or :func:`likely_facts`.
        module: a module of the user's own that is to be trained in place of ``config.model``.

    Raises:
        ConfigError: settings exclude each other, or no trainer takes the model with them.
        DeviceError: the device is not available.
    """
    if module is not None:
        require_torch("a module of your own", reads=True)
        from torch import nn

        if not isinstance(module, nn.Module):
            hint = ", an object and not the class itself" if isinstance(module, type) else ""
            raise ConfigError(f"model={show(module)}: expected the name of a model or an nn.Module{hint}")
    refusals: dict[str, str] = {}
    if config.loss is None and config.optimizer is None and module is None and config.model in FACTOR_MODELS:
        planned = _by_states(config, data)
        if not isinstance(planned, str):
            return _finish(config, data, module, planned, refusals)
        refusals["next_item" if data.has_order else "other_items"] = planned
    for optimizer in (config.optimizer,) if config.optimizer else OPTIMIZERS:
        if optimizer == "pretrain":
            planned = _pretrained(config, data, module)
        else:
            planned = _single(config, data, module, optimizer)
        if not isinstance(planned, str):
            return _finish(config, data, module, planned, refusals)
        refusals[optimizer] = planned
    reason = refusals[optimizer]
    if config.optimizer:
        others = " or ".join(repr(other) for other in OPTIMIZERS if other != config.optimizer)
        raise ConfigError(f"optimizer={config.optimizer!r}: {reason:.300}; expected {others}")
    raise ConfigError(f"model={_name(config, module)!r}: {reason:.300}")


def alternative_plan(config: Config, plan: Plan) -> Plan | None:
    """Return the plan to compare with a plan on held-out items; None where none is worth the time.

    Softmax over histories ranks best on most data, and ``bce`` on some, such as those of few users.

    Args:
        config: what was asked for.
        plan: what :func:`make_plan` has made of it, perhaps with another seed, which the returned one has too.
    """
    if config.loss is not None or plan.final.trainer not in BY_STATES or config.budget == "fast":
        return None
    if plan.final.horizon != 1:  # trials are by the next item
        return None
    if plan.data.num_interactions > LOSS_TRIALS_UP_TO:
        return None
    return make_plan(replace(config, loss="bce", seed=plan.final.seed), plan.data)


def trial_of(config: Config, plan: Plan) -> Stage:
    """Return the stage that is trained to compare a plan with another on held-out items: its own, or a faster one."""
    if plan.data.num_interactions <= L2_FULL_SEARCH_UP_TO:
        return plan.final
    asked = replace(config, loss=plan.final.loss, budget="fast", seed=plan.final.seed)
    return make_plan(asked, plan.data).final


def _name(config: Config, module: "nn.Module | None") -> str:
    """Return what a plan calls the model: its registered name, or the class of a module of the user's own."""
    return config.model if module is None else type(module).__name__


class _Planned(NamedTuple):
    """A stage with the reasons for its settings, see :class:`Plan`."""

    stage: Stage
    reasons: dict[str, str]
    passed_over: dict[str, str]


def _single(
    config: Config, data: DataFacts, module: "nn.Module | None", optimizer: str, *, name: str | None = None
) -> list[_Planned] | str:
    """Plan one stage from random parameters; return the reason where no trainer takes it."""
    name = name or _name(config, module)
    if optimizer == "adam" and name in ("mf", "gmf") and module is None and config.loss == "softmax":
        planned = _by_states(config, data, name)
        if not isinstance(planned, str) or config.history in ("sequence", "bag"):
            return planned
    if name in NEEDS_NO_TRAINING and module is None and optimizer == "adam":
        untrained = {"model": name, "optimizer": optimizer, "history": "none", "device": "cpu", "has_weights": False}
        why = dict.fromkeys(("history", "device"), "the model needs no training")
        return _staged(replace(config, precision=None), None, adam_recipes(config), untrained, why)
    history, history_reason = _history(config, data, optimizer)
    recipes = sgd_recipes(config, data, history) if optimizer == "sgd" else adam_recipes(config)
    device, device_reason = _device(config, module, optimizer)
    known: dict[str, Any] = {"model": name, "optimizer": optimizer, "history": history, "device": device}
    known["has_weights"] = data.has_weights
    reasons = {"history": history_reason, "device": device_reason}
    return _staged(config, module, recipes, known, reasons)


def _by_states(config: Config, data: DataFacts, name: str = "mf") -> list[_Planned] | str:
    """Plan the training of an mf or a gmf by softmax on histories; return the reason where that does not apply."""
    if config.history == "none":
        return "history='none' was asked for"
    if config.history == "sequence" and not data.has_order:
        return f"it needs histories in their order ({data.order_reason})"
    history = config.history or ("sequence" if data.has_order else "bag")
    if config.loss is None:
        if (config.num_negatives or NEGATIVES_OF_SOFTMAX) < NEGATIVES_OF_SOFTMAX:
            return f"num_negatives={config.num_negatives} are too few for softmax"
        if history == "bag" and data.num_interactions > LOSS_TRIALS_UP_TO:
            return f"more than {LOSS_TRIALS_UP_TO:,} interactions without an order are trained faster by bce"
    if config.negatives_exponent is not None:
        return f"negatives_exponent={config.negatives_exponent:g} was asked for, and negatives are drawn uniformly"
    recipes = [GENERAL, *states_recipes(config, data, history)]
    known: dict[str, Any] = {"model": name, "optimizer": "adam", "history": history, "has_weights": data.has_weights}
    if history == "sequence":
        known["horizon"] = config.horizon
    history_reason = AS_ASKED_FOR if config.history is not None else data.order_reason
    device, device_reason = _device_of_states(config)
    if device != "cpu":
        reasons = {"history": history_reason, "device": device_reason}
        planned = _staged(config, None, recipes, known | {"device": device}, reasons)
        if not isinstance(planned, str) or config.device != "auto":
            return planned
        device_reason = planned
    reasons = {"history": history_reason, "device": device_reason}
    return _staged(replace(config, precision=None), None, recipes, known | {"device": "cpu"}, reasons)


def _pretrained(config: Config, data: DataFacts, module: "nn.Module | None") -> list[_Planned] | str:
    """Plan the stages of a pre-trained model; return the reason where the model has no pre-training."""
    pretraining = PRETRAINING.get(config.model) if module is None else None
    if pretraining is None:
        return f"it trains {' and '.join(PRETRAINING)}, not {_name(config, module)}"
    dim = config.dim or GENERAL.settings["dim"]
    if dim < PRETRAINING_FROM_DIM:
        return f"it needs dim={PRETRAINING_FROM_DIM} or more, not {dim}"
    for_layers: dict[str, Any] = dict.fromkeys(("epochs", "learning_rate", "l2", "batch_size"))
    first = replace(
        config,
        dim=dim - pretraining.num_fewer_dims,
        mlp_dim=None,
        init_std=config.init_std if pretraining.takes_init_std else None,
        device="cpu",
        **for_layers,
    )
    planned = _single(first, data, None, "sgd", name=pretraining.first)
    if isinstance(planned, str):
        return planned
    planned[0].reasons["dim"] = f"that of the {config.model}, less the dimensions for biases"
    planned[0].reasons["device"] = "sgd runs on a CPU, where its recipe ranks best"
    width = (config.mlp_dim or dim) if pretraining.joined else dim
    recipes = adam_recipes(config) if pretraining.joined else fine_tuning_recipes(config, data)
    device, device_reason = _device(config, None, "adam")
    known: dict[str, Any] = {"model": "mlp", "optimizer": "adam", "history": "none", "device": device}
    known |= {"start": "random" if pretraining.joined else "pretrained", "has_weights": data.has_weights}
    reasons = {"device": device_reason, "history": "adam trains no histories"}
    layers = _staged(replace(config, dim=width, mlp_dim=None), None, recipes, known, reasons)
    if isinstance(layers, str):
        return layers
    layers[0].reasons["dim"] = f"that of the {config.model}'s layers"
    if not pretraining.joined:
        return [*planned, *layers]
    joined = replace(
        layers[0].stage, model=config.model, trainer="untrained", epochs=0, start="joined", dim=dim, mlp_dim=width
    )
    reason = {"epochs": f"the model is the weighted sum of the {pretraining.first} and the mlp before"}
    return [*planned, *layers, _Planned(joined, reason, {})]


def _history(config: Config, data: DataFacts, optimizer: str) -> tuple[str, str]:
    """Return the kind of history, and the reason for it."""
    if optimizer == "adam":
        require_torch(_what_needs_torch(config), reads=True)
        if config.history not in (None, "none"):
            raise ConfigError(
                f"history={config.history!r}: needs optimizer='sgd' (mf or gmf by bce or bpr) or 'pretrain' (mlp or "
                f"neumf), or mf by softmax; expected 'none'"
            )
        return "none", "adam trains no histories"
    if config.history is not None:
        return config.history, AS_ASKED_FOR
    return ("sequence" if data.has_order else "bag"), data.order_reason


def _device(config: Config, module: "nn.Module | None", optimizer: str) -> tuple[str, str]:
    """Return the name of the torch device, and the reason for it; torch is not imported for a CPU."""
    if config.device == "cpu":
        return "cpu", AS_ASKED_FOR
    if config.device == "auto" and optimizer == "sgd" and module is None:
        return "cpu", "sgd runs on a CPU, where its recipe ranks best"
    require_torch(_what_needs_torch(config), reads=True)
    from fastncf.device import find_device

    device = str(find_device(config.device))
    return device, AS_ASKED_FOR if config.device != "auto" else "the fastest that is available"


def _what_needs_torch(config: Config) -> str:
    """Return the setting for which torch is needed, as the subject of a sentence."""
    if config.device not in ("cpu", "auto"):
        return f"device={show(config.device)}"
    if config.model not in FACTOR_MODELS:
        return f"model={show(config.model)}"
    return "optimizer='adam'" if config.optimizer == "adam" else f"loss={show(config.loss)}"


def _device_of_states(config: Config) -> tuple[str, str]:
    """Return what :func:`_device` does, for states of histories; torch is not imported where ``auto`` is the CPU."""
    if config.device != "auto":
        return _device(config, None, "adam")
    if not may_have_device():
        return "cpu", "there is no other device"
    try:
        return _device(config, None, "adam")
    except InsufficientMemoryError:
        return "cpu", "the limit of the memory has no room for torch, which other devices need"


_CHOSEN_SETTINGS = (
    *("dim", "init_std", "loss", "num_negatives", "negatives", "negatives_exponent", "dropout"),
    *("epochs", "batch_size", "learning_rate", "l2"),
)
"""Settings that recipes choose where they are not given."""


def _staged(
    config: Config,
    module: "nn.Module | None",
    recipes: list[Recipe],
    known: Mapping[str, Any],
    reasons: dict[str, str],
) -> list[_Planned] | str:
    """Fill in a stage, and find its trainer; return the reason where there is none."""
    settings: dict[str, Any] = {}
    reasons = dict(reasons)
    for recipe in recipes:
        for name, value in recipe.settings.items():
            settings[name], reasons[name] = value, f"the default {recipe.situation}"
    for name in _CHOSEN_SETTINGS:
        if getattr(config, name) is not None:
            settings[name], reasons[name] = getattr(config, name), AS_ASKED_FOR
    if known["optimizer"] == "sgd":
        settings["batch_size"] = 1 + settings["num_negatives"]
        reasons["batch_size"] = "sgd takes a step for each interaction"
    settings["precision"], reasons["precision"] = _precision(config, known)
    settings["mlp_dim"] = config.mlp_dim or settings["dim"]
    reasons["mlp_dim"] = AS_ASKED_FOR if config.mlp_dim else "that of the embeddings"
    for name in ("layers", "schedule", "shuffle", "deterministic", "seed"):
        settings[name] = getattr(config, name)
        is_default = settings[name] == Config.__dataclass_fields__[name].default
        reasons[name] = "the default for all models" if is_default else AS_ASKED_FOR
    stage = Stage(trainer="", **known, **settings)
    choice = choose(stage, module)
    if choice.name is None:
        objections = {name: why for name, why in choice.objections.items() if not why.startswith("takes steps by")}
        return f"no trainer can train {stage.model} on {stage.device} ({'; '.join(dict.fromkeys(objections.values()))})"
    if choice.name == "untrained":
        stage, reasons["epochs"] = replace(stage, epochs=0), "the model needs no training"
    reasons["trainer"], reasons["horizon"] = "the first one that can train this", AS_ASKED_FOR
    return [_Planned(replace(stage, trainer=choice.name), reasons, choice.objections)]


def _precision(config: Config, known: Mapping[str, Any]) -> tuple[str, str]:
    """Return the dtype of matrix products, and the reason for it."""
    if known["optimizer"] == "sgd":
        return "float32", "sgd computes in float32"
    if config.precision is not None:
        return config.precision, AS_ASKED_FOR
    if known["device"] != "cpu":
        import torch

        from fastncf.device import has_bfloat16

        if has_bfloat16(torch.device(known["device"])):
            return "bfloat16", "the device multiplies in it"
    return "float32", "the device has no faster dtype that is accurate enough"


def _finish(
    config: Config, data: DataFacts, module: "nn.Module | None", planned: list[_Planned], refusals: dict[str, str]
) -> Plan:
    """Put the stages, the evaluation and the costs together.

    Args:
        config: what was asked for.
        data: facts of the data.
        module: a module of the user's own, or None.
        planned: the stages.
        refusals: why the optimizers that were tried before do not apply, by name.
    """
    stages = tuple(one.stage for one in planned)
    trials = _l2_trials(config, data, module, stages)
    evaluation = EvaluationSettings(
        num_candidates=config.num_candidates,
        distinct_candidates=config.distinct_candidates,
        k=max(config.cutoffs),
        full_ranking=config.full_ranking,
        validation=config.validation,
        patience=config.patience or 0,
        seed=config.seed,
    )
    chosen = f"the first of {', '.join(OPTIMIZERS)} that applies"
    reasons = [{"optimizer": AS_ASKED_FOR if config.optimizer else chosen, **one.reasons} for one in planned]
    if trials:
        reasons[0] = {
            **reasons[0],
            "l2": f"{reasons[0]['l2']}; a multiple of it where that ranks held-out items better",
        }
    return Plan(
        stages=stages,
        reasons=tuple(reasons),
        passed_over=tuple(refusals | one.passed_over | refusals for one in planned),  # a refusal says more
        l2_trials=trials,
        evaluation=evaluation,
        data=data,
        cost=estimate(
            (*stages, *trials * _EXPECTED_TRIALS),
            num_users=data.num_users,
            num_items=data.num_items,
            num_interactions=data.num_interactions,
            num_rows=data.num_rows,
            num_candidates=config.num_candidates,
        ),
    )


def _l2_trials(
    config: Config, data: DataFacts, module: "nn.Module | None", stages: tuple[Stage, ...]
) -> tuple[Stage, ...]:
    """Return the stage that is trained to choose the l2 of the first one; none where l2 is given or trials are slow."""
    size = data.num_interactions
    is_given = config.l2 is not None and len(stages) == 1
    if (
        stages[0].optimizer != "sgd"
        or is_given
        or config.budget == "fast"
        or size > L2_SEARCH_UP_TO
        or module is not None
    ):
        return ()
    if size <= L2_FULL_SEARCH_UP_TO:
        return stages[:1]
    return make_plan(replace(config, budget="fast"), data).stages[:1]


_SHOWN_SETTINGS = (
    "optimizer",
    "dim",
    "mlp_dim",
    "layers",
    "dropout",
    "init_std",
    "loss",
    "num_negatives",
    "negatives",
    "negatives_exponent",
    "history",
    "horizon",
    "epochs",
    "batch_size",
    "learning_rate",
    "schedule",
    "l2",
    "precision",
    "device",
    "trainer",
)
_LAYER_SETTINGS = {"mlp_dim", "layers"}


def _describe(plan: Plan, name_of: Callable[[str], str]) -> Iterator[str]:
    """Yield the lines of a plan, see :meth:`Plan.lines`."""
    width = 1 + max(len(name_of(name)) for name in _SHOWN_SETTINGS)
    data = plan.data
    yield (
        f"data: {counted(data.num_interactions, 'training interaction')} of {counted(data.num_users, 'user')} with "
        f"{counted(data.num_items, 'item')} ({data.num_interactions / data.num_items:.1f} per "
        f"item{', sparse' if is_sparse(data) else ''})"
    )
    for number, (stage, reasons) in enumerate(zip(plan.stages, plan.reasons, strict=True), start=1):
        heading = f"stage {number} of {len(plan.stages)}: {stage.model}"
        if not stage.epochs:
            yield f"{heading}: {reasons['epochs']}"
            continue
        yield f"{heading} by {stage.optimizer}, trainer {stage.trainer}"
        for name in _SHOWN_SETTINGS:
            if name in _LAYER_SETTINGS and stage.model not in PRETRAINING:
                continue
            if name == "dropout" and not stage.dropout:
                continue
            if name == "horizon" and stage.horizon == 1:
                continue
            if name == "negatives_exponent" and stage.negatives == "uniform":
                continue
            yield f"  {name_of(name):<{width}}{getattr(stage, name)!s:<14}{reasons[name]}"
        for trainer, why in plan.passed_over[number - 1].items():
            yield f"  not by {trainer}: {why}"
    evaluation = plan.evaluation
    if data.holdout == "none":
        yield "evaluation: none, nothing is held out"
        yield f"expect: {plan.cost}"
        return
    yield (
        f"evaluation: ranks up to {evaluation.k} of held-out items ({data.holdout}) among "
        f"1 + {evaluation.num_candidates} candidates{' and the whole catalogue' if evaluation.full_ranking else ''}"
    )
    yield f"expect: {plan.cost}"
