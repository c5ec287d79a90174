"""A fitted model with its data, and what all that is asked of it needs: parameters, vectors, titles."""

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from fastncf.config import Config
from fastncf.data.ids import Vocabulary
from fastncf.data.split import Split
from fastncf.data.titles import read_titles
from fastncf.errors import ConfigError, printable
from fastncf.evaluation.topk import FactorItems, ModuleItems
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.factors import Factors
from fastncf.memory import require_torch
from fastncf.models.factored import MF_NAMES, as_module, has_vectors, module_factors
from fastncf.models.pretrained import Pretrained
from fastncf.plan import Plan
from fastncf.processes import use_one_torch_thread_after_fork
from fastncf.serving.histories import RowsReading
from fastncf.serving.module_users import table_names
from fastncf.trainers.loop import TrainingLog
from fastncf.updating import KnownModel

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(repr=False)
class FittedModel:
    """Attributes of a :class:`~fastncf.Recommender`, where they are described, and how others look at them."""

    trained: "nn.Module | Factors"
    config: Config
    plan: Plan
    users: Vocabulary
    items: Vocabulary
    split: Split
    metrics: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    popularity: dict[str, float] = field(default_factory=dict)
    protocol: str = ""
    data: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    training_log: TrainingLog = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    order: np.ndarray | None = None
    num_kept: tuple[int, ...] = ()
    encoder: HistoryEncoder | None = None
    pretrained: Pretrained | None = None
    titles: pl.Series | None = None
    _counts: np.ndarray | None = field(default=None, init=False, repr=False, compare=False)
    _factor_items: FactorItems | None = field(default=None, init=False, repr=False, compare=False)
    _module_factors: tuple[list[Any], Factors] | None = field(default=None, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        """Return what was trained on what, and how it was measured, in at most ten lines."""
        return "\n".join(("Recommender", *(f"  {name}: {value}" for name, value in self._described())))

    def _repr_html_(self) -> str:
        """Return the same as a table, which notebooks show."""
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self._described())
        return f"<table><caption>Recommender</caption>{rows}</table>"

    def _described(self) -> list[tuple[str, str]]:
        """Return what a reader of a notebook wants to know: names and values, each of one line."""
        rows = [
            ("model", self.plan.model_in_words),
            ("epochs", f"{len(self.training_log)}"),
            ("users", f"{len(self.users):,}"),
            ("items", f"{len(self.items):,}"),
            ("interactions", f"{self.data.get('interactions', self.split.num_interactions):,}"),
            ("metrics", _first_of([f"{name} {value:.4f}" for name, value in self.metrics.items()], 200) or "none"),
            ("protocol", self.protocol[:800] or "none"),
            ("source", str(self.found.get("source", "unknown"))[:200]),
        ]
        return [(name, printable(value)) for name, value in rows]

    @property
    def history(self) -> TrainingLog:
        """Former name of :attr:`training_log`."""
        return self.training_log

    @property
    def model(self) -> "nn.Module":
        """Model as a module; made of the factors, in the same memory, at the first access if a kernel trained them."""
        self.trained = self._as_module()
        return self.trained

    @model.setter
    def model(self, model: "nn.Module") -> None:
        self.trained = model

    def _as_module(self) -> "nn.Module":
        """Return the model as a module, and leave :attr:`trained` as it is: factors answer requests faster."""
        use_one_torch_thread_after_fork()
        if not isinstance(self.trained, Factors):
            return self.trained
        require_torch("the model as a module")
        return as_module(self.plan.final.model, self.trained, self.split.item_weights())

    @property
    def device(self) -> "torch.device":
        """Device of the model's parameters."""
        module = self._as_module()
        from fastncf.evaluation.scoring import device_of

        return device_of(module)

    def _for_histories(self) -> "Factors | nn.Module":
        """Return the factors of the model, or the module, for users who are known by their histories.

        Raises:
            ConfigError: the model has no users who could be solved for, or no encoder of histories.
        """
        if isinstance(self.trained, Factors):
            if self.encoder is None and self.plan.final.history != "none":
                raise ConfigError(
                    "history: the model has no encoder of histories, as after a training that diverged, or in a folder "
                    "of an older version; expected a new fit"
                )
            return self.trained
        factors = self._factors_of_module()
        if factors is not None:
            return factors
        if table_names(self.trained) is None:
            raise ConfigError(
                f"history: a {self.plan.final.model:.80} knows its users only by their ids; expected mf, gmf, mlp, "
                f"neumf or popularity, or a module whose class names its tables of users in user_tables"
            )
        return self.trained

    def _factors_of_module(self) -> Factors | None:
        """Return the factors with the scores of the module; None where it is no matrix factorization.

        A new object for the same parameters would have the items arranged anew at each request.
        """
        assert not isinstance(self.trained, Factors)
        state = [(parameter, parameter._version) for parameter in self.trained.parameters()]
        kept = self._module_factors
        if kept is not None and all(old is new and a == b for (old, a), (new, b) in zip(kept[0], state, strict=True)):
            return kept[1]
        factors = module_factors(self.trained, self.plan.final.model, len(self.users), len(self.items))
        self._module_factors = None if factors is None else (state, factors)
        return factors

    def _known_model(self) -> KnownModel:
        """Return the model with the data that it knows; see :meth:`_for_histories`."""
        data = self.users, self.items, self.split, self.order
        return KnownModel(self._for_histories(), self.encoder, *data, self.pretrained)

    def _reading(self, *, updates: bool = False) -> RowsReading:
        """Return how further interactions are read, which have weights where they update the model's own."""
        columns = {str(role): str(name) for role, name in self.found.get("columns", {}).items()}
        weight = columns.get("weight", "weight") if updates and self.split.weights is not None else None
        return RowsReading(self.config.reading(), columns, weight, self.config.ties)

    def _ranker(self, num_users: int) -> FactorItems | ModuleItems:
        """Return what ranks items for some number of users."""
        if isinstance(self.trained, Factors):
            return self._tiled_items()
        is_on_cpu = all(parameter.device.type == "cpu" for parameter in self.trained.parameters())
        if is_on_cpu and self._factors_of_module() is not None:
            return self._tiled_items()
        return ModuleItems(self.trained, self.split.num_items, num_users)

    def _tiled_items(self) -> FactorItems:
        """Return the items of a factorization in the form that answers requests fast, made at the first request."""
        factors = self._for_histories() if not isinstance(self.trained, Factors) else self.trained
        assert isinstance(factors, Factors)
        if self._factor_items is None or self._factor_items.factors is not factors:
            self._factor_items = FactorItems(factors)
        return self._factor_items

    def _factors(self) -> Factors | None:
        """Return the factors of a model with vectors; None where it is no matrix factorization."""
        if isinstance(self.trained, Factors):
            return self.trained if has_vectors(self.plan.final.model) else None
        parameters = trained_arrays(self.trained)
        if set(parameters) != set(MF_NAMES):
            return None
        sizes = len(self.users), len(self.items), len(self.users), len(self.items)
        named = zip(MF_NAMES, sizes, strict=True)
        return Factors(*(parameters[name][:size].float().cpu().numpy() for name, size in named))

    def _vectors(self, noun: str) -> np.ndarray:
        """Return the vectors of all users or items, (n, D) float32.

        Raises:
            ConfigError: the model has none.
        """
        factors, size = self._factors(), len(self.users if noun == "user" else self.items)
        if factors is not None:
            return factors.user_vectors if noun == "user" else factors.item_vectors
        is_module = not isinstance(self.trained, Factors)
        vectors = getattr(self.trained, f"{noun}_vectors", None) if is_module else None
        if vectors is None:
            raise ConfigError(
                f"{self.plan.final.model:.80} has no vectors to compare {noun}s by; expected a model with "
                f"{noun}_vectors() -> (n, D), as mf, gmf, mlp and neumf have"
            )
        array: np.ndarray = vectors()[:size].detach().float().cpu().numpy()
        return array

    def _with_titles(
        self, frame: pl.DataFrame, after: str, item_ids: np.ndarray, titles: Any, name: str = "title"
    ) -> pl.DataFrame:
        """Return a frame with a column of titles behind a column of items, where there are titles.

        Args:
            frame: n rows.
            after: name of the column of items.
            item_ids: (n,) integers, the items of the rows.
            titles: a source of titles, or None for those of the recommender.
            name: name of the new column.
        """
        found = self.titles if titles is None else read_titles(titles, self.items)
        if found is None:
            return frame
        position = frame.columns.index(after) + 1
        return frame.insert_column(position, found.gather(item_ids.astype(np.int64)).alias(name))


def _first_of(parts: list[str], length: int) -> str:
    """Return parts separated by commas, without the last ones where they are longer than that together."""
    number = next((at for at in range(len(parts)) if len(", ".join(parts[: at + 1])) > length), len(parts))
    return ", ".join(parts[:number]) + ", ..." * (number < len(parts))


def trained_arrays(trained: "nn.Module | Factors") -> dict[str, Any]:
    """Return what was trained, by name: parameters, as arrays or tensors in the same memory, and no buffers."""
    if isinstance(trained, Factors):
        return dict(zip(MF_NAMES, trained, strict=True))
    return {name: parameter.detach() for name, parameter in trained.named_parameters()}
