"""Settings of a fit as the user asks for them. Settings that are left out are chosen by :mod:`fastncf.plan`."""

import numbers
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args, get_origin

from fastncf.data.holdout import Holdout, Rule, quantile_of
from fastncf.errors import ConfigError
from fastncf.suggestions import nearest_name

if TYPE_CHECKING:
    from fastncf.data.readers.options import Reading

FORMER_VALUES = {
    "optimizer": {"parts": "pretrain"},
    "history": {"recent": "sequence", "all": "bag"},
}
"""Values of settings that were renamed: they are still taken, and stored by their new name."""

LARGEST_INTEGER = 2**31 - 1
"""Largest value of a setting that counts something."""

LARGEST_SEED = 2**63 - 1
"""Largest seed that a function takes: the largest signed integer of 64 bits."""

LARGEST_NUMBER = 1e6
"""Largest learning rate, l2 and standard deviation: the products of much larger ones overflow float32."""

_FLOATS = "init_std", "dropout", "negatives_exponent", "learning_rate", "l2", "user_fraction", "min_rating"
"""Settings that are numbers; integers are kept as floats, for which kernels are compiled."""

_WITH_LAYERS = ("mlp", "neumf")
_WITH_MLP_DIM = ("neumf",)


class Settings(TypedDict, total=False):
    """Settings by name, as :func:`fastncf.fit` takes them; :class:`Config` says what each is.

    An editor and a type checker mark a name that is none of these.
    """

    dim: int | None
    mlp_dim: int | None
    init_std: float | None
    layers: Sequence[int]
    dropout: float | None
    loss: str | None
    num_negatives: int | None
    negatives: str | None
    negatives_exponent: float | None
    optimizer: Literal["sgd", "adam", "pretrain", "parts"] | None
    history: Literal["sequence", "bag", "none", "recent", "all"] | None
    horizon: float
    budget: Literal["best", "fast"]
    epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    schedule: Literal["constant", "linear"]
    l2: float | None
    shuffle: bool
    user_fraction: float
    split: Literal["latest", "random"]
    time_format: str | None
    dayfirst: bool | None
    encoding: str | None
    drop_missing: bool
    min_rating: float | None
    rows_in_order: bool
    holdout: float | Literal["one", "none"] | None
    ties: Literal["first", "last"]
    before: str | float | None
    test_users: float | None
    validation: bool
    patience: int | None
    num_candidates: int
    distinct_candidates: bool
    candidate_sampling: Literal["uniform", "popularity"]
    k: int | Sequence[int]
    metrics: Sequence[str] | None
    full_ranking: bool
    precision: Literal["float32", "bfloat16"] | None
    deterministic: bool
    seed: int
    device: str


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one fit; immutable. None means that the plan chooses, see ``docs/defaults.md``.

    Values may be numbers, scalars and arrays of NumPy as well, and are kept as Python's own. Integers are at most
    2,147,483,647; ``learning_rate``, ``l2`` and ``init_std`` are at most 1,000,000.

    Raises:
        ConfigError: a value is out of its range, or two settings exclude each other.
    """

    model: str = "mf"
    """mf: dot product with biases. gmf, mlp, neumf: He et al. 2017. popularity: counts. Or a registered model."""

    dim: int | None = None
    """Length of an embedding vector."""

    mlp_dim: int | None = None
    """Length of the vectors that enter the hidden layers of a neumf; otherwise dim."""

    init_std: float | None = None
    """Standard deviation of the embedding vectors before the first epoch."""

    layers: tuple[int, ...] = (64, 32)
    """Widths of the hidden layers of mlp and neumf."""

    dropout: float | None = None
    """Probability that a number is set to 0 in training: an activation of a hidden layer (mlp, neumf), or a component
    of a user's state (softmax with histories)."""

    loss: str | None = None
    """bce: logistic loss of each sample. bpr: logistic loss of each (positive, negative) pair. softmax: cross entropy
    of each interaction over itself and its negatives; an mf then predicts each from the ones before it. Or a registered
    loss."""

    num_negatives: int | None = None
    """Sampled negatives per training interaction, drawn anew each epoch; all interactions of a batch share them where
    softmax trains histories."""

    negatives: str | None = None
    """Distribution of the negatives over the items that a user does not have in training: uniform, popularity, or a
    registered one."""

    negatives_exponent: float | None = None
    """With negatives by popularity: draws are proportional to this power of an item's interactions."""

    optimizer: Literal["sgd", "adam", "pretrain", "parts"] | None = None
    """sgd: a step per interaction (mf and gmf on a CPU). adam: a step per batch (any model). pretrain: first an mf or
    gmf by sgd, then the layers by adam (mlp and neumf; He et al. 2017, section 3.4.1). Former name: parts."""

    history: Literal["sequence", "bag", "none", "recent", "all"] | None = None
    """Use of the history in a user's vector: its items weighted by recency (sequence), without an order (bag), or not
    at all (none). Former names: recent for sequence, all for bag."""

    horizon: float = 1
    """Number of coming interactions to predict where softmax trains histories in their order: 1 for the next one,
    another integer, or a share of the history (a number below 1). Other than with 1, interactions within this distance
    change their order in each epoch."""

    budget: Literal["best", "fast"] = "best"
    """fast: fewer epochs with larger steps, and no search for l2."""

    epochs: int | None = None
    """Passes over the training interactions."""

    batch_size: int | None = None
    """Samples per step of adam; an interaction and its negatives are 1 + K of them. Interactions per step where
    softmax trains histories."""

    learning_rate: float | None = None
    """Step size at the start."""

    schedule: Literal["constant", "linear"] = "linear"
    """linear: the learning rate falls to 0 over all steps."""

    l2: float | None = None
    """Weight of the mean squared norm of the embedding vectors in a step, added to its mean loss. In a module of your
    own it applies to embeddings whose names contain user or item."""

    shuffle: bool = True
    """Draw the order of the interactions anew each epoch; otherwise one drawn order serves all epochs."""

    user_fraction: float = 1.0
    """Share of the users that is kept, drawn with the seed; of a given test set, their rows and candidates."""

    split: Literal["latest", "random"] = "latest"
    """Which interactions of each user are held out for the test: the latest or any."""

    time_format: str | None = None
    """Format of dates as strftime has it, such as %d.%m.%Y %H:%M, where it cannot be recognised."""

    dayfirst: bool | None = None
    """Whether the day stands before the month in dates such as 03/04/2021, where no row tells."""

    encoding: str | None = None
    """Encoding of text files, such as latin-1, utf-16 or gbk; otherwise UTF-8."""

    drop_missing: bool = False
    """Leave out rows that lack a user, an item or a time, and count them, rather than refuse them."""

    min_rating: float | None = None
    """Leave out rows whose rating is lower, and count them; otherwise ratings are not read."""

    rows_in_order: bool = False
    """Take the rows of each user as its history, the oldest first, where the data have no times."""

    holdout: float | Literal["one", "none"] = "one"
    """one: hold out an item of each user, by which the model is measured. An integer: so many of each user. A number
    below 1: that share of each user's. none: train on all interactions, with the plan of a
    fit that holds one out, and measure nothing."""

    ties: Literal["first", "last"] = "first"
    """Row of the data that counts as the latest among those of equal times."""

    before: str | None = None
    """Train on what is earlier than a point in time, and hold out all that is not: a time as the data have it, a date
    such as 2000-12-01 (in UTC), or a share of all interactions such as 90%."""

    test_users: float | None = None
    """Leave so many users out of the training (an integer), or such a share of them (a number below 1), drawn with the
    seed, and rank what is held out of these by their other interactions. Not for modules of your own."""

    validation: bool = False
    """Hold out a second interaction per user and report ranking metrics on it after each epoch."""

    patience: int | None = None
    """With validation: stop after this many epochs without a better NDCG, and keep the best epoch's parameters."""

    num_candidates: int = 99
    """Negatives that a held-out item is ranked against."""

    distinct_candidates: bool = True
    """Draw the candidates of a list without replacement."""

    candidate_sampling: Literal["uniform", "popularity"] = "uniform"
    """Distribution that candidates are drawn from: uniform, or proportional to an item's training interactions."""

    k: tuple[int, ...] | int = 10
    """Length of the ranking that HR@k, NDCG@k and others look at, or several. Choices between settings, and early
    stopping, look at the longest."""

    metrics: tuple[str, ...] | None = None
    """Some of hr, ndcg, mrr (of the whole list), mrr@k, recall, precision, map, and registered metrics. By default hr,
    ndcg and mrr, and recall where a user may have several held-out items."""

    full_ranking: bool = False
    """Also rank each held-out item against the whole catalogue."""

    precision: Literal["float32", "bfloat16"] | None = None
    """Dtype of matrix products of the training by adam; parameters, sums and losses are float32 in any case."""

    deterministic: bool = False
    """Give the same bits on every run on the same CUDA device, which takes longer; on a CPU that is always so."""

    seed: int = 0
    """Determines every draw: users, parameters, negatives, order, dropout, candidates."""

    device: str = "auto"
    """auto: the CPU for what sgd trains, otherwise CUDA where there is one. Or a torch device such as cpu or cuda:1."""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        object.__setattr__(self, "holdout", _canonical_holdout(self.holdout))
        object.__setattr__(self, "before", _canonical_point(self.before))
        object.__setattr__(self, "test_users", _whole(self.test_users))
        object.__setattr__(self, "horizon", _whole(self.horizon))
        object.__setattr__(self, "k", _canonical_cutoffs(self.k))
        if isinstance(self.metrics, list):
            object.__setattr__(self, "metrics", tuple(self.metrics))
        self._require("layers", isinstance(self.layers, tuple | list), "a list of integers, such as [64, 32]")
        object.__setattr__(self, "layers", tuple(map(_plain, self.layers)))
        for name, former in FORMER_VALUES.items():
            value = getattr(self, name)
            object.__setattr__(self, name, former.get(value, value) if isinstance(value, str) else value)
        self._check_names()
        self._check_choices()
        self._check_numbers()
        self._check_combinations()
        for name in _FLOATS:  # after the checks, whose messages show what was given
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))

    def _check_names(self) -> None:
        """Raise a ConfigError for a model, loss or distribution that is not registered."""
        from fastncf import models  # here, so that importing fastncf does not wait for NumPy
        from fastncf.models.losses import LOSSES
        from fastncf.sampling.distributions import DISTRIBUTIONS

        for name, known in (("model", models.names()), ("loss", LOSSES), ("negatives", DISTRIBUTIONS)):
            is_left_out = name in ("loss", "negatives") and getattr(self, name) is None
            holds = is_left_out or is_one_of(getattr(self, name), known)
            self._require(name, holds, f"one of {', '.join(known)}")
        self._check_metrics()
        holds = self.time_format is None or (isinstance(self.time_format, str) and "%" in self.time_format)
        self._require("time_format", holds, "a format such as '%d.%m.%Y %H:%M:%S'")
        holds = self.encoding is None or (isinstance(self.encoding, str) and _is_encoding(self.encoding))
        self._require("encoding", holds, "the name of an encoding that Python knows, such as 'latin-1'")
        self._require("dayfirst", self.dayfirst is None or isinstance(self.dayfirst, bool), "True or False")
        require_device_name(self.device)

    def _check_metrics(self) -> None:
        """Raise a ConfigError for metrics that are none."""
        from fastncf.evaluation.metrics import METRICS, require_metrics

        if self.metrics is None:
            return
        holds = isinstance(self.metrics, tuple) and all(isinstance(name, str) for name in self.metrics)
        self._require("metrics", holds and len(self.metrics) > 0, f"a list of some of {', '.join(METRICS)}")
        require_metrics(self.metrics)

    def _check_holdout(self) -> None:
        """Raise a ConfigError for a rule of holding out that is none."""
        share = "or a share, above 0 and below 1"
        holds = is_one_of(self.holdout, ("one", "none")) or _is_amount(self.holdout)
        self._require("holdout", holds, f"one, none, {_count_expected(self.holdout)}, {share}")
        holds = self.test_users is None or _is_amount(self.test_users)
        self._require("test_users", holds, f"{_count_expected(self.test_users)}, {share}")
        holds = self.before is None or (isinstance(self.before, str) and bool(self.before.strip()))
        self._require(
            "before", holds, "a time as the data have it, a date such as '2000-12-01', or a share such as '90%'"
        )
        is_share = isinstance(self.before, str) and self.before.strip().endswith("%")
        holds = not is_share or quantile_of(str(self.before)) is not None
        self._require("before", holds, "a share above 0% and below 100%, such as '90%'")
        cutoffs = self.k if isinstance(self.k, tuple) else (self.k,)
        self._require("k", len(cutoffs) > 0 and all(map(_is_count, cutoffs)), _cutoffs_expected(self.k))

    def _check_choices(self) -> None:
        """Raise a ConfigError for a value that is not among those of its field's Literal type."""
        for field in fields(self):
            choice = next((kind for kind in (field.type, *get_args(field.type)) if get_origin(kind) is Literal), None)
            value = getattr(self, field.name)
            if field.name == "holdout":  # it may be a number as well
                continue
            if choice is None or (value is None and choice is not field.type):
                continue
            expected = [name for name in get_args(choice) if name not in FORMER_VALUES.get(field.name, {})]
            self._require(field.name, is_one_of(value, expected), f"one of {', '.join(expected)}")

    def _check_numbers(self) -> None:
        """Raise a ConfigError for a number that is out of its range, or for a bool that is none."""
        self._check_holdout()
        for name in ("dim", "mlp_dim", "num_negatives", "epochs", "batch_size", "num_candidates", "patience"):
            value = getattr(self, name)
            is_left_out = value is None and Config.__dataclass_fields__[name].default is None
            self._require(name, is_left_out or _is_count(value), _count_expected(value))
        for name, least in (("init_std", "above 0"), ("learning_rate", "above 0"), ("l2", "of at least 0")):
            value = getattr(self, name)
            holds = value is None or (
                _is_number(value) and (value > 0 or (value == 0 and name == "l2")) and value <= LARGEST_NUMBER
            )
            self._require(name, holds, f"a finite number {least} and at most {LARGEST_NUMBER:,.0f}")
        expected = f"{_count_expected(self.horizon)}, or a share, above 0 and below 1"
        self._require("horizon", _is_amount(self.horizon), expected)
        value = self.negatives_exponent
        holds = value is None or (_is_number(value) and value >= 0)
        self._require("negatives_exponent", holds, "a finite number of at least 0")
        wrong = next((width for width in self.layers if not _is_count(width)), 1)
        self._require("layers", _is_count(wrong), _count_expected(wrong).replace("an integer", "integers"))
        is_probability = self.dropout is None or (_is_number(self.dropout) and 0 <= self.dropout < 1)
        self._require("dropout", is_probability, "a number of at least 0 and below 1")
        holds = self.min_rating is None or _is_number(self.min_rating)
        self._require("min_rating", holds, "a finite number, such as 4")
        is_share = _is_number(self.user_fraction) and 0 < self.user_fraction <= 1
        self._require("user_fraction", is_share, "a number above 0 and at most 1")
        require_seed(self.seed)
        for field in fields(self):
            if isinstance(field.default, bool):
                self._require(field.name, isinstance(getattr(self, field.name), bool), "True or False")

    def _check_combinations(self) -> None:
        """Raise a ConfigError for settings that exclude each other."""
        if self.patience is not None:
            self._require("patience", self.validation, "validation=True beside it, which early stopping needs")
        is_told_once = self.dayfirst is None or self.time_format is None
        self._require("dayfirst", is_told_once, "no time_format= beside it, which tells the order as well")
        fits = self.mlp_dim is None or self.model in _WITH_MLP_DIM
        self._require("mlp_dim", fits, "model='neumf' beside it; the vectors of other models have the length dim")
        has_width = self.model not in _WITH_LAYERS or len(self.layers) >= 1
        self._require("layers", has_width, f"at least one width for model={self.model!r}")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        """Raise a ConfigError that names a setting and what is expected, unless the condition holds."""
        if not holds:
            raise ConfigError(f"{name}={show(getattr(self, name))}: expected {expected}")

    def reading(self) -> "Reading":
        """Return the settings of the reading of the data, see :class:`~fastncf.data.readers.options.Reading`."""
        return {
            "time_format": self.time_format,
            "dayfirst": self.dayfirst,
            "encoding": self.encoding,
            "drop_missing": self.drop_missing,
            "min_rating": self.min_rating,
        }

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """Lengths of the rankings that metrics look at."""
        return self.k if isinstance(self.k, tuple) else (self.k,)

    def held_out(self, *, is_given: bool = False) -> Holdout:
        """Return the rule by which interactions are held out; with ``holdout="none"`` that of a fit with one.

        Args:
            is_given: whether a test set is given.
        """
        rule: Rule = "given" if is_given else "time" if self.before is not None else self.split
        amount = 1 if isinstance(self.holdout, str) else self.holdout
        return Holdout(rule=rule, amount=amount, ties=self.ties, before=self.before, test_users=self.test_users)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values that JSON can hold."""
        as_lists = {
            name: list(value) for name in ("layers", "k", "metrics") if isinstance(value := getattr(self, name), tuple)
        }
        return {**asdict(self), **as_lists}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Return the settings that :meth:`to_dict` described.

        Raises:
            ConfigError: a name is unknown, a value is out of its range, or two settings exclude each other.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"settings {show(values)}: expected a dict of settings by their names")
        require_known(values)
        return cls(**values)

    @classmethod
    def notebook(cls, **changes: Any) -> "Config":
        """Return the recipe of the NCF notebook on MovieLens-20M (after He et al. 2017), its quirks included.

        - 30 % of the users are drawn at random; all other rows are dropped before anything is counted.
        - The test item is the user's latest; among ties the first row of the file.
        - The interactions are visited in one fixed order in every epoch (the notebook's loader does not shuffle), and
          a positive is followed by its negatives. The notebook's batches of 512 samples cut through such groups; here
          a batch holds the 102 whole groups that fit (510 samples).
        - The held-out item may be drawn as a negative in training, as in He et al.
        - The 99 candidates are drawn with replacement from the items that the user has never seen.
        - The learning rate is 0.001 throughout, without regularisation, for 5 epochs and without validation: the
          metric of the last epoch is the result.
        - The notebook sizes its tables by the largest raw id; rows that no id uses are never read, so the contiguous
          tables here train the same model.
        - Tied scores: the notebook's reversed argsort breaks ties by position; here the positive loses them.

        Args:
            **changes: settings that differ from the notebook's.

        Raises:
            ConfigError: as for :meth:`from_dict`.
        """
        require_known(changes)
        recipe: dict[str, Any] = {
            "model": "mlp",
            "dim": 8,
            "layers": (64, 32),
            "init_std": 1.0,
            "loss": "bce",
            "num_negatives": 4,
            "negatives": "uniform",
            "optimizer": "adam",
            "history": "none",
            "epochs": 5,
            "batch_size": 512,
            "learning_rate": 0.001,
            "schedule": "constant",
            "l2": 0.0,
            "shuffle": False,
            "user_fraction": 0.3,
            "distinct_candidates": False,
        }
        return cls(**{**recipe, **changes})


def _is_encoding(name: str) -> bool:
    """Return whether Python can decode text by a name."""
    try:
        return bool(b"a\n\0\0".decode(name, "replace"))
    except (LookupError, ValueError):
        return False


def show(value: Any) -> str:
    """Return a value as code for a message, of at most 80 characters."""
    try:
        return f"{value!r:.80}"
    except Exception:  # whatever an object's own method raises; an int of more than 4,300 digits has no repr either
        return f"<{type(value).__name__}>"


def require_known(names: Iterable[str], *others: str) -> None:
    """Raise a ConfigError for a name that is no setting, which names the setting that was probably meant.

    Args:
        names: given names.
        *others: names of further arguments that may have been meant.
    """
    known = tuple(Config.__dataclass_fields__)
    for name in names:
        if name in others:
            raise ConfigError(
                f"unknown setting: {name}; fit takes an argument of this name, and this function does not"
            )
        if name not in known:
            nearest = nearest_name(str(name), (*known, *others))
            expected = f"did you mean {nearest}?" if nearest else f"expected one of {', '.join(known)}"
            raise ConfigError(f"unknown setting: {str(name)[:80] or repr(name)}; {expected}")


def is_one_of(value: Any, names: Iterable[str]) -> bool:
    """Return whether a value is one of some names; a series or a frame is compared with none of them."""
    return isinstance(value, str) and value in tuple(names)


def require_count(name: str, value: Any, *, least: int = 1) -> int:
    """Return a number of things as an int of Python's own.

    Args:
        name: argument that it was given as.
        value: a Python integer, or one of NumPy.
        least: 1, or 0 where there may be none.

    Raises:
        ConfigError: it is no integer, below ``least``, or too large.
    """
    count = _plain(value)
    if not (_is_count(count) or (_is_integer(count) and count == least)):
        raise ConfigError(f"{name}={show(count)}: expected {_count_expected(count, least)}")
    return int(count)


def require_seed(value: Any) -> int:
    """Return a seed as an int of Python's own.

    Args:
        value: a Python integer, or one of NumPy.

    Raises:
        ConfigError: it is no integer, below 0 or above :data:`LARGEST_SEED`.
    """
    seed = _plain(value)
    if not _is_integer(seed) or not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"seed={show(seed)}: expected an integer of at least 0 and below 2**63")
    return int(seed)


def require_device_name(value: Any) -> str:
    """Return the name of a device, which may be a ``torch.device``.

    Raises:
        ConfigError: it is neither text nor such a device.
    """
    name = _plain(value)
    if not isinstance(name, str):
        raise ConfigError(f"device={show(name)}: expected 'auto' or the name of a torch device")
    return name


def require_flag(name: str, value: Any) -> bool:
    """Return a truth value as one of Python's own.

    Args:
        name: argument that it was given as.
        value: a bool, of Python or of NumPy.

    Raises:
        ConfigError: it is anything else, such as the text "no", which would count as true.
    """
    flag = _plain(value)
    if not isinstance(flag, bool):
        raise ConfigError(f"{name}={show(flag)}: expected True or False")
    return flag


def _plain(value: Any) -> Any:
    """Return Python's own value for a scalar, string or array of another library; other values as they are."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if type(value).__name__ == "datetime64":  # tolist() would make a bare number of nanoseconds
        return str(value)
    if hasattr(value, "tolist") and hasattr(value, "ndim"):  # scalars, arrays and tensors
        value = value.tolist()
    if isinstance(value, numbers.Integral):
        return int(value) if not isinstance(value, bool) else value
    if isinstance(value, numbers.Real):
        return float(value)
    if type(value).__module__ == "torch" and type(value).__name__ == "device":
        return str(value)
    return value


def _canonical_holdout(value: Any) -> Any:
    """Return what is held out by its canonical name: 1 is ``one``, and None, as JSON lacks it, is ``none``."""
    value = _whole(value)
    return "none" if value is None else "one" if _is_integer(value) and value == 1 else value


def _whole(value: Any) -> Any:
    """Return a number from 1 without a fraction as an int, as flags of a command line need it."""
    return int(value) if isinstance(value, float) and value >= 1 and value.is_integer() else value


def _canonical_point(value: Any) -> Any:
    """Return a point in time as text; dates of Python, NumPy and pandas in ISO 8601."""
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(value) if isinstance(value, int | float) else value


def _canonical_cutoffs(value: Any) -> Any:
    """Return one length of a ranking as an int, and several as a tuple, ascending and distinct."""
    if not isinstance(value, list | tuple | range):
        return value
    cutoffs = tuple(map(_plain, value))
    if not all(map(_is_count, cutoffs)):
        return cutoffs
    cutoffs = tuple(sorted(set(cutoffs)))
    return cutoffs[0] if len(cutoffs) == 1 else cutoffs


def _cutoffs_expected(value: Any) -> str:
    """Return what is expected in place of lengths of rankings."""
    if not isinstance(value, tuple):
        return _count_expected(value) + ", or a list such as [5, 10, 20]" * isinstance(value, str)
    wrong = next((one for one in value if not _is_count(one)), None)
    return f"{_count_expected(wrong)}, or several such as 5, 10 and 20"


def _is_amount(value: Any) -> bool:
    """Return whether a value is a number of things, or a share of them."""
    return _is_count(value) or (isinstance(value, float) and 0 < value < 1)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_integer(value) and 1 <= value <= LARGEST_INTEGER


def _count_expected(value: Any, least: int = 1) -> str:
    """Return what is expected in place of a value that is no count."""
    at_most = f" and at most {LARGEST_INTEGER:,}" if _is_integer(value) and value > 0 else ""
    return f"an integer of at least {least}{at_most}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
