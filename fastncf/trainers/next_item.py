"""Training of states by softmax: each interaction is predicted from the interactions before it.

A user is a state that runs through the history, see :class:`~fastncf.kernels.cpu.encoder.HistoryEncoder`; there is no
vector of the user's own. Its gains and decays are learnt, together with vectors and a bias for each item: one vector
for each feature enters the states, another is what states are multiplied by (as in FPMC, Rendle et al. 2010, and
SASRec, Kang and McAuley 2018). After an epoch the states after whole histories are written to the table of users, so
that the model is a matrix factorization.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from fastncf.data.csr import balanced_ranges
from fastncf.data.split import Split, ordered_items, ordered_rows, ranges_of_users
from fastncf.errors import ConfigError
from fastncf.kernels.cpu import next_item as kernels
from fastncf.kernels.cpu.batch_plans import Epoch, Plans, Windows, plan_batches
from fastncf.kernels.cpu.csr import delay_rows
from fastncf.kernels.cpu.encoder import HistoryEncoder, encode_histories
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.lazy_adam import LazyTable, catch_up, make_schedule, restore_steps, steps_of, stride_of
from fastncf.kernels.cpu.simd import LANES, aligned_zeros
from fastncf.mapped import empty_beside
from fastncf.rng import Stream, key
from fastncf.stage import Stage
from fastncf.threads import even_ranges, num_threads, run_ranges, run_threads
from fastncf.trainers.base import State, Trainer
from fastncf.trainers.sgd import load_arrays, weights_of

if TYPE_CHECKING:
    from torch import nn

FIRST_DECAYS = 0.1, 0.6, 0.9
"""Decays of the features before the first epoch; the last feature is a mean."""

IS_MEAN = np.array([False] * len(FIRST_DECAYS) + [True])
"""Whether a feature is a mean, (C,)."""

WINDOW = 128
"""Positions of a window at most, and interactions before them that their states are made of at most."""

LATEST_WEIGHT = 3.0
"""Excess weight of the loss of a user's latest interaction over that of an early one, which is 1 before scaling."""

LATEST_INTERACTIONS = 6.0
"""Number of interactions over which the excess weight falls by a factor of e."""

_BATCHES_PER_CALL = 32  # Ctrl-C waits for a call
BIAS_COLUMNS = 8  # the bias and numbers that stay 0, so that rows have whole vectors
_LARGEST_EXPONENT = 80.0  # of a decay, so that neither the power overflows nor the decay underflows in float32
MOMENTS = "parameters", "exp_avg", "exp_avg_sq"


class Work(NamedTuple):
    """Memory and settings of an epoch.

    Attributes:
        plans: of the batches of a call.
        buffers: that all threads share.
        settings: of the kernel.
        scratch: memory of each thread.
    """

    plans: Plans
    buffers: kernels.Buffers
    settings: kernels.Settings
    scratch: list[np.ndarray]


class NextItem(Trainer):
    """Trains histories and items by softmax over negatives that all positions of a batch share."""

    name = "next_item"
    large_kernels = plan_batches, kernels.train_batches
    optimizer = "adam"
    trains_factors = True
    history: ClassVar[Literal["sequence", "bag"]] = "sequence"
    is_mean: ClassVar[np.ndarray] = IS_MEAN
    state_length: ClassVar[float] = 0.0
    _fixed_states: np.ndarray | None = None  # (U * width,) float32, once states are no longer trained

    @classmethod
    def why_not(cls, stage: Stage, module: "nn.Module | None") -> str | None:
        """See :meth:`fastncf.trainers.base.Trainer.why_not`."""
        if (reason := why_not_states(stage, module, cls.history, ("mf", "gmf"))) is not None:
            return reason
        if stage.model == "gmf" and stage.dim < 3:
            return f"dim={stage.dim} leaves a gmf no room for the biases; expected at least 3"
        if stage.device != "cpu":
            return f"device={stage.device!r} is not the CPU"
        if stage.precision != "float32":
            return f"precision={stage.precision!r} was asked for, and the kernel multiplies in float32"
        return None

    def __init__(self, model: Factors, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.__init__`; the parameters of ``model`` are drawn anew."""
        stage = replace(stage, dim=model.user_vectors.shape[1])  # a gmf keeps two dimensions for the biases
        self.model, self.stage, self.num_items = model, stage, split.num_items
        self.split, self.order = split, order
        self.windows = self._make_windows(0)
        self.num_positions = int(self.windows.lengths.sum())
        self.num_groups = self.num_batches = -(-self.num_positions // stage.batch_size)
        self.num_negatives = min(stage.num_negatives, split.num_items)
        self.num_slots = whole_lanes(self.num_negatives)
        self.width = whole_lanes(stage.dim)
        self._inputs, self._outputs = self._first_tables()
        self._recurrence = aligned_zeros((3, 2, len(self.is_mean), self.width))
        self._recurrence[0, :, :, : stage.dim] = first_recurrence(self.is_mean, stage.dim)
        rates = stage.learning_rate_at(np.array([0, 1 / max(1, stage.epochs * self.num_batches)]))
        self._schedule = make_schedule(float(rates[0]), float(rates[0] - rates[1]))

    def _make_windows(self, epoch: int) -> Windows:
        """Return the windows that an epoch visits."""
        return windows_of(self.split, delayed_order(self.split, self.order, self.stage, epoch))

    @property
    def _num_vectors(self) -> int:
        """History vectors of an item: one for each feature; states of sets have no features and one vector."""
        return max(1, len(self.is_mean))

    @property
    def row_width(self) -> int:
        """Numbers of a gradient of an item: history vectors, output vector and bias."""
        return self._inputs.width + self._outputs.width

    @property
    def _num_rows(self) -> int:
        """Number of items whose rows are in the tables of this process."""
        return len(self._inputs.rows) // self._inputs.stride

    def _first_tables(self) -> tuple[LazyTable, LazyTable]:
        """Return the rows of all items: normally distributed history and output vectors, and biases of 0."""
        num_vectors, dim = self._num_vectors, self.stage.dim
        history, output = draw_vectors(self.stage, self.num_items, num_vectors)
        inputs = make_table(self.num_items, num_vectors * self.width)
        outputs = make_table(self.num_items, self.width + BIAS_COLUMNS)
        rows = inputs.rows.reshape(-1, inputs.stride)[:, : inputs.width]
        rows.reshape(-1, num_vectors, self.width)[:, :, :dim] = history
        outputs.rows.reshape(-1, outputs.stride)[:, :dim] = output
        return inputs, outputs

    def epoch(self, number: int) -> float:
        """Visit every window once, in an order drawn anew. See :meth:`fastncf.trainers.base.Trainer.epoch`."""
        if self.num_batches == 0:
            self._write_model()
            return 0.0
        if self.history == "bag" or self.stage.horizon != 1:
            self.windows = self._make_windows(number)
        epoch = self._draw_epoch(number)
        most = _Most.of(self.windows, epoch)
        work = Work(
            plans=make_plans(_BATCHES_PER_CALL, most, len(self.windows.interaction_weights) > 0),
            buffers=self._make_buffers(most),
            settings=self._settings(number),
            scratch=[aligned_zeros(self._scratch_size()) for _ in range(num_threads())],
        )
        done, sums = self._begin(total=np.zeros(1))
        for first, last in itertools.pairwise([*range(done, self.num_batches, _BATCHES_PER_CALL), self.num_batches]):

            def plan(a: int, b: int, first: int = first) -> None:
                plan_batches(first + a, first + b, first, self.windows, epoch, work.plans)

            run_ranges(plan, np.arange(last - first + 1))
            sums["total"] += self._train_batches(first, last - first, number * self.num_batches + first + 1, work)
            self._reach(last, sums)
        self._catch_up((number + 1) * self.num_batches)
        self._write_model()
        return float(sums["total"][0]) * len(self.windows.items) / self.num_positions

    def compile_rest(self) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.compile_rest`."""
        catch_up(0, 0, 0, self._inputs, self._schedule)
        encode_histories(0, 0, self.split.indptr, self._items_of_users(), self.encoder, self.model.user_vectors)

    def _train_batches(self, first: int, count: int, step: int, work: "Work") -> float:
        """Train the batches that are planned, and return their summed loss.

        Args:
            first: number of the first batch in the epoch.
            count: number of batches.
            step: number of the step of the first batch, counted from 1.
            work: memory and settings of the epoch.
        """
        shared = self._shared(count, work)

        def train(thread: int) -> None:
            kernels.train_batches(thread, count, first, step, work.plans, shared, work.scratch[thread])

        run_threads(train, len(work.scratch))
        return float(shared.total.sum())

    def _shared(self, count: int, work: "Work") -> kernels.Shared:
        """Return what the threads share that train a number of batches."""
        return kernels.Shared(
            num_threads=len(work.scratch),
            barrier=np.zeros(1, dtype=np.int64),
            counters=np.zeros(count * kernels.PHASES, dtype=np.int64),
            settings=work.settings,
            inputs=self._inputs,
            outputs=self._outputs,
            recurrence=self._recurrence.reshape(-1),
            buffers=work.buffers,
            schedule=self._schedule,
            total=np.zeros(count),
        )

    def _draw_epoch(self, number: int) -> Epoch:
        """Return the order of the windows in an epoch, divided into batches, and the key of its negatives."""
        order, bounds = draw_order(self.windows, self.stage, self.num_batches, number)
        return Epoch(
            order=order,
            bounds=bounds,
            key=np.uint64(key(self.stage.seed, Stream.NEGATIVES, number)),
            num_items=self.num_items,
            num_negatives=self.num_negatives,
            num_slots=self.num_slots,
            lookahead=1 if self.history == "sequence" else 0,
            has_fixed_states=self._fixed_states is not None,
        )

    def _settings(self, number: int) -> kernels.Settings:
        """Return the settings of the kernel for an epoch."""
        log_sizes = np.zeros(self.num_slots, dtype=np.float32)
        log_sizes[: self.num_negatives] = log_part_sizes(self.num_items, self.num_negatives)
        return kernels.Settings(
            width=self.width,
            num_features=len(self.is_mean),
            num_negatives=self.num_slots,
            is_mean=self.is_mean.astype(np.int64),
            log_sizes=log_sizes,
            dropout=float(self.stage.dropout),
            dropout_key=np.uint64(key(self.stage.seed, Stream.DROPOUT, number)),
            state_length=np.float32(self.state_length),
            has_fixed_states=self._fixed_states is not None,
        )

    def _make_buffers(self, most: "_Most") -> kernels.Buffers:
        """Return memory for the largest batch."""
        width, features = self.width, len(self.is_mean)
        chunks = -(-most.positions // kernels.CHUNK)
        positions = chunks * kernels.CHUNK
        return kernels.Buffers(
            inputs=aligned_zeros((self.num_slots + most.items) * self._inputs.width),
            outputs=aligned_zeros((self.num_slots + most.items) * self._outputs.width),
            negatives=aligned_zeros(width * self.num_slots),
            biases=aligned_zeros(self.num_slots),
            states=aligned_zeros(positions * width),
            grad_states=aligned_zeros(positions * width),
            coefficients=aligned_zeros(positions),
            grad_tokens=aligned_zeros(most.tokens * self._inputs.width),
            partial=aligned_zeros(chunks * self.num_slots * width),
            partial_biases=aligned_zeros(chunks * self.num_slots),
            decays=aligned_zeros(features * width),
            partial_recurrence=aligned_zeros(most.windows * 2 * features * width),
            zeros=aligned_zeros(width),
            losses=np.zeros(positions),
            fixed_states=np.empty(0, dtype=np.float32) if self._fixed_states is None else self._fixed_states,
        )

    def _scratch_size(self) -> int:
        """Return how many numbers a thread needs for itself."""
        longest = int((self.windows.lengths + self.windows.contexts).max(initial=0))
        return kernels.scratch_size(longest, len(self.is_mean) * self.width, self.num_slots, self.row_width)

    def _catch_up(self, step: int) -> None:
        """Bring all rows to the state after a step; where states are fixed, history vectors stay as they are."""

        tables = (self._inputs, self._outputs) if self._fixed_states is None else (self._outputs,)

        def catch_up_rows(first: int, last: int) -> None:
            for table in tables:
                catch_up(first, last, step, table, self._schedule)

        run_ranges(catch_up_rows, even_ranges(self._num_rows))

    def start_from(self, factors: Factors, encoder: HistoryEncoder | None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.start_from`; users have no vectors of their own."""
        if encoder is None:
            raise ValueError("encoder: expected one")
        if not np.array_equal(encoder.is_mean, self.is_mean):
            raise ConfigError(
                f"the encoder of histories has {len(encoder.is_mean)} features; expected {len(self.is_mean)}, the last "
                f"one a mean, as next_item trains them"
            )
        decays = np.clip(encoder.decays[~self.is_mean].astype(np.float64), 1e-6, 1 - 1e-6)
        state = self.state_dict()
        state["parameters.decay_logits"][~self.is_mean] = np.log(decays / (1 - decays))
        vectors = np.broadcast_to(encoder.feature_vectors(), state["parameters.history_vectors"].shape)
        values = (vectors, factors.item_vectors, factors.item_bias, encoder.gains)
        for name, value in zip(("history_vectors", "item_vectors", "item_bias", "gains"), values, strict=True):
            state[f"parameters.{name}"] = value
        self.load_state_dict(state)

    @property
    def encoder(self) -> HistoryEncoder:
        """Encoder of histories with the parameters as they are; copies."""
        gains, logits = self._recurrence[0]
        exponents = np.minimum(-logits.astype(np.float64), _LARGEST_EXPONENT)
        decays = (1 / (1 + np.exp(exponents))).astype(np.float32)
        decays[self.is_mean] = 1
        dim, vectors = self.stage.dim, self._history_vectors()
        return HistoryEncoder(vectors, gains[:, :dim].copy(), decays[:, :dim].copy(), self.is_mean, WINDOW + 1)

    def _history_vectors(self) -> np.ndarray:
        """Return a copy of the history vectors of all items, (I, C, D) float32; (I, D) where there are no features."""
        return np.array(self._columns(0)["history_vectors"])

    def _write_model(self) -> None:
        """Write the states of all users, and the vectors and biases of the items, to the model."""
        self._encode_users()
        model, columns = self.model, self._columns(0)
        model.item_vectors[:] = columns["item_vectors"]
        model.item_bias[:] = columns["item_bias"]
        model.user_bias[:] = 0

    def _encode_users(self) -> None:
        """Write the states of all users to the model."""
        encoder, items, vectors = self.encoder, self._items_of_users(), self.model.user_vectors
        indptr = self.split.indptr
        run_ranges(
            lambda first, last: encode_histories(first, last, indptr, items, encoder, vectors), balanced_ranges(indptr)
        )

    def _items_of_users(self) -> np.ndarray:
        """Return the items (N,) int32 of all users, in the order in which their states take them in."""
        return self.windows.items if self.stage.horizon == 1 else ordered_items(self.split, self.order)

    def _columns(self, moment: int) -> State:
        """Return views of the values (0), means (1) or mean squares (2) of all parameters, by name."""
        dim = self.stage.dim
        inputs, outputs = (
            table.rows.reshape(-1, table.stride)[:, moment * table.width : (moment + 1) * table.width]
            for table in (self._inputs, self._outputs)
        )
        gains, logits = self._recurrence[moment]
        history = inputs.reshape(-1, self._num_vectors, self.width)[:, :, :dim]
        return {
            "history_vectors": history if len(self.is_mean) else history[:, 0],
            "item_vectors": outputs[:, :dim],
            "item_bias": outputs[:, self.width],
            "gains": gains[:, :dim],
            "decay_logits": logits[:, :dim],
        }

    def _arrays(self) -> State:
        """Return views of everything that the next epoch depends on, by name; the steps are a copy."""
        arrays = {
            f"{prefix}.{name}": array
            for moment, prefix in enumerate(MOMENTS)
            for name, array in self._columns(moment).items()
        }
        return arrays | {"steps": np.column_stack([steps_of(self._inputs), steps_of(self._outputs)])}

    def state_dict(self) -> State:
        """Return copies of parameters, moments and steps.

        Returns:
            Arrays by ``parameters.``, ``exp_avg.`` or ``exp_avg_sq.`` before ``history_vectors``
            (I, C, D), ``item_vectors`` (I, D), ``item_bias`` (I,), ``gains`` (C, D) or ``decay_logits`` (C, D),
            float32; and
            ``steps`` (I, 2) int32, the steps that an item's history vectors, and its output vector and bias, were last
            written in, counted from 1, 0 before the first.
        """
        return {name: np.array(array) for name, array in self._arrays().items()}

    def load_state_dict(self, state: State) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.load_state_dict`."""
        self._fixed_states = None
        load_arrays(self._arrays(), state)
        for table, steps in zip((self._inputs, self._outputs), np.array(state["steps"], dtype=np.int32).T, strict=True):
            restore_steps(0, self._num_rows, steps.copy(), table, self._schedule)
        self._write_model()


def why_not_states(
    stage: Stage, module: "nn.Module | None", history: str, models: tuple[str, ...] = ("mf",)
) -> str | None:
    """Return why a stage cannot be trained by states of histories of a kind, whatever its device and precision."""
    if stage.optimizer != "adam":
        return f"takes steps by adam, not by {stage.optimizer}"
    if module is not None:
        return "the kernel trains no modules"
    if stage.model not in models:
        return f"the kernel is for {' and '.join(models)} and not for {stage.model!r}"
    if stage.loss != "softmax":
        return f"the kernel computes softmax and not loss={stage.loss!r}"
    if stage.history != history:
        return f"history={stage.history!r} was asked for, and the kernel is for {history!r}"
    if stage.negatives != "uniform":
        return f"negatives={stage.negatives!r} was asked for, and the kernel draws uniformly"
    if stage.l2:
        return f"l2={stage.l2:g} was asked for, and the kernel has dropout in its place; expected l2=0"
    return None


def windows_of(split: Split, order: np.ndarray | None) -> Windows:
    """Return the windows of all histories; ``order`` is that of a trainer, which must not be None."""
    if order is None:
        raise ValueError("order: expected one, which histories need")
    windows, weights = make_windows(split.indptr, ordered_items(split, order)), recency_weights(split)
    given = weights_of(split)
    return windows._replace(interaction_weights=weights * given[ordered_rows(split, order)] if len(given) else weights)


def delayed_order(split: Split, order: np.ndarray | None, stage: Stage, epoch: int) -> np.ndarray | None:
    """Return the order of the histories in an epoch: ``order`` itself where states predict the next interaction.

    With another ``horizon`` several coming interactions are asked for, and neither their order nor that of the latest
    ones tells much. Each interaction is delayed by a random number of places, at most the horizon, so that a state is
    made of some of the latest interactions and predicts one of the next.

    Args:
        split: N training interactions.
        order: (N,) int32, see :meth:`fastncf.trainers.base.Trainer.__init__`, or None.
        stage: has the horizon and the seed.
        epoch: counted from 0.

    Returns:
        (N,) int32, or None without an order.
    """
    if order is None or stage.horizon == 1:
        return order
    sizes, horizon = np.diff(split.indptr), float(stage.horizon)
    spans = sizes * horizon if horizon < 1 else np.full(len(sizes), horizon)
    delay_key = np.uint64(key(stage.seed, Stream.HISTORIES, epoch if stage.shuffle else 0, 2))
    delayed = np.empty_like(order)

    def delay(first: int, last: int) -> None:
        delay_rows(first, last, split.indptr, order, spans, delay_key, delayed)

    run_ranges(delay, balanced_ranges(split.indptr))
    return delayed


def recency_weights(split: Split) -> np.ndarray:
    """Return what the loss of predicting each interaction of histories is multiplied by, (N,) float32, oldest first.

    What is recommended follows the latest interactions, which resemble it more than early ones do. The mean over all
    interactions but the first of each history, which nothing predicts, is 1.

    Args:
        split: N training interactions.
    """
    indptr, total = split.indptr, 0.0
    weights = empty_beside(split.indices, len(split.indices), np.float32)
    for first, last in ranges_of_users(indptr):
        own = _recency(indptr[first : last + 1])
        firsts = (indptr[first:last] - indptr[first])[np.diff(indptr[first : last + 1]) > 0]
        total += own.sum() - own[firsts].sum()
    count = len(weights) - int((np.diff(indptr) > 0).sum())
    for first, last in ranges_of_users(indptr):
        scaled = _recency(indptr[first : last + 1]) * (count / total if count else 1.0)
        weights[indptr[first] : indptr[last]] = scaled
    return weights


def _recency(indptr: np.ndarray) -> np.ndarray:
    """Return the weights of interactions before scaling, float64.

    Args:
        indptr: where the interactions of each user begin and end, from any number on.
    """
    ages = np.repeat(indptr[1:], np.diff(indptr)) - 1 - np.arange(indptr[0], indptr[-1])
    return 1 + LATEST_WEIGHT * np.exp(ages / -LATEST_INTERACTIONS)


def draw_vectors(stage: Stage, num_items: int, num_vectors: int) -> Iterator[np.ndarray]:
    """Yield history vectors, ``num_vectors`` of each item, and output vectors (I, D) float32 before the first epoch."""
    generator = vector_generator(stage)
    for shape in ((num_items, num_vectors, stage.dim), (num_items, stage.dim)):
        yield generator.standard_normal(shape, dtype=np.float32) * np.float32(stage.init_std)


def vector_generator(stage: Stage) -> np.random.Generator:
    """Return what draws history vectors, item by item, and then output vectors."""
    return np.random.Generator(np.random.Philox(key=key(stage.seed, Stream.PARAMETERS)))


def first_recurrence(is_mean: np.ndarray, dim: int) -> np.ndarray:
    """Return gains of 1 and the logits of ``FIRST_DECAYS``, 0 for the mean: (2, C, D) float32, C the length given."""
    decays = np.array(FIRST_DECAYS)
    logits = np.concatenate([np.log(decays / (1 - decays)), [0]])[: len(is_mean)]
    return np.stack([np.ones_like(logits), logits])[:, :, None].repeat(dim, 2).astype(np.float32)


def draw_order(windows: Windows, stage: Stage, num_batches: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the windows in an epoch, and where its batches begin and end in it.

    A batch has the windows that begin within its ``batch_size`` positions.

    Returns:
        (W,) int32 and (B + 1,) int64.
    """
    turn = epoch if stage.shuffle else 0
    generator = np.random.Generator(np.random.Philox(key=key(stage.seed, Stream.HISTORIES, turn)))
    order = generator.permutation(len(windows.users)).astype(np.int32)
    lengths = windows.lengths[order]
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    bounds = np.searchsorted(starts, np.arange(num_batches + 1) * stage.batch_size)
    bounds[-1] = len(order)
    return order, bounds


def log_part_sizes(num_items: int, num_negatives: int) -> np.ndarray:
    """Return the logarithms of the sizes of the parts of the catalogue that negatives are drawn from, (K,) float32."""
    return np.log(np.diff(np.arange(num_negatives + 1) * num_items // num_negatives)).astype(np.float32)


def make_windows(indptr: np.ndarray, items: np.ndarray) -> Windows:
    """Divide histories into windows of at most ``WINDOW`` positions, those of one history of about the same length.

    Args:
        indptr: (U + 1,) int64, where the histories begin and end in ``items``.
        items: (N,) int32, the oldest item of each history first.
    """
    positions = np.maximum(np.diff(indptr) - 1, 0)
    parts = -(-positions // WINDOW)
    users = np.repeat(np.arange(len(positions)), parts)
    part = np.arange(len(users)) - np.repeat(np.cumsum(parts) - parts, parts)
    starts, ends = (positions[users] * number // parts[users] for number in (part, part + 1))
    contexts = np.minimum(starts, WINDOW)
    return Windows(
        indptr=indptr,
        items=items,
        users=users.astype(np.int32),
        starts=indptr[users] + starts - contexts,
        contexts=contexts.astype(np.int32),
        lengths=(ends - starts).astype(np.int32),
        interaction_weights=np.empty(0, dtype=np.float32),
    )


class _Most(NamedTuple):
    """Sizes of the largest batch of an epoch.

    Attributes:
        windows, tokens, positions: numbers of them.
        items: items of tokens and targets at most.
        masks: negatives that stand in the histories of its windows' users at most.
        slots: of negatives.
    """

    windows: int
    tokens: int
    positions: int
    items: int
    masks: int
    slots: int

    @classmethod
    def of(cls, windows: Windows, epoch: Epoch) -> "_Most":
        """Return the sizes over all batches of an epoch."""

        def most(by_window: np.ndarray) -> int:
            totals = np.concatenate([[0], np.cumsum(by_window[epoch.order], dtype=np.int64)])
            return int(np.diff(totals[epoch.bounds]).max())

        num_windows, tokens = most(np.ones_like(windows.lengths)), most(windows.lengths + windows.contexts)
        in_histories = np.minimum(np.diff(windows.indptr), epoch.num_negatives)
        masks = most(in_histories[windows.users])
        return cls(num_windows, tokens, most(windows.lengths), tokens + num_windows, masks, epoch.num_slots)


def make_plans(count: int, most: _Most, has_weights: bool) -> Plans:
    """Return memory for the plans of ``count`` batches, whose positions may have weights."""

    def rows(length: int) -> np.ndarray:
        return np.empty((count, length), dtype=np.int32)

    slots = most.slots + most.items
    return Plans(
        sizes=np.zeros((count, 4), dtype=np.int64),
        window_tokens=rows(most.windows + 1),
        window_positions=rows(most.windows + 1),
        token_slots=rows(most.tokens),
        target_slots=rows(most.positions),
        position_windows=rows(most.positions),
        window_users=rows(most.windows),
        slot_items=rows(slots),
        input_indptr=rows(slots + 1),
        input_tokens=rows(most.tokens),
        target_indptr=rows(slots + 1),
        target_positions=rows(most.positions),
        mask_indptr=rows(most.windows + 1),
        mask_slots=rows(most.masks),
        target_weights=np.empty((count, most.positions if has_weights else 0), dtype=np.float32),
    )


def make_table(num_rows: int, width: int) -> LazyTable:
    """Return rows of zeros, ``width`` a multiple of 8."""
    stride = stride_of(width)
    memory = aligned_zeros(num_rows * stride)
    return LazyTable(memory, memory.view(np.int32), width, stride)


def whole_lanes(count: int) -> int:
    """Return the next multiple of the lanes of a vector."""
    return -(-count // LANES) * LANES
