"""Training of states of sets by softmax: each item of a user is predicted from the user's other items.

For data whose order says nothing. A user is the direction of the mean of the history vectors of the user's items, see
:class:`~fastncf.kernels.cpu.encoder.HistoryEncoder` and :mod:`fastncf.kernels.cpu.sets`; the item that is predicted is
left out of it. There is no vector of the user's own. In the last epochs the states of whole sets stay as they are, and
output vectors and biases alone are trained against them: recommendations are ranked by states of whole sets, which the
epochs before have not seen. All else is as in :mod:`fastncf.trainers.next_item`.
"""

from typing import ClassVar, Literal

import numpy as np

from fastncf.data.split import SPARSE_BELOW, Split
from fastncf.kernels.cpu.batch_plans import Windows
from fastncf.kernels.cpu.encoder import LONGEST, HistoryEncoder
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.sets import SET_ROWS
from fastncf.kernels.cpu.simd import aligned_zeros
from fastncf.rng import Stream, key
from fastncf.stage import Stage
from fastncf.trainers.next_item import NextItem
from fastncf.trainers.sgd import weights_of

LARGEST_WINDOW = 48
"""Items of a window at most. A larger set is divided at random, anew in each epoch, so that its states are made of a
part of it: what MultVAE (Liang et al. 2018) does by dropout of inputs."""

FIXED_SHARE, FIXED_SHARE_OF_SPARSE = 0.25, 0.5
"""Share of the epochs, the last ones, in which the states of whole sets stay as they are and the items are trained;
the latter on sparse data, where it ranks better."""

STATE_LENGTH = 7.0
"""Length of all states, the inverse of a temperature."""


class OtherItems(NextItem):
    """Trains sets and items by softmax over negatives that all positions of a batch share."""

    name = "other_items"
    history: ClassVar[Literal["sequence", "bag"]] = "bag"
    is_mean: ClassVar[np.ndarray] = np.array([], dtype=np.bool_)
    state_length: ClassVar[float] = STATE_LENGTH

    def _make_windows(self, epoch: int) -> Windows:
        """Return the windows that an epoch visits."""
        return set_windows(self.split, bits_of_sets(self.stage, epoch))

    def epoch(self, number: int) -> float:
        """See :meth:`fastncf.trainers.next_item.NextItem.epoch`; the last epochs train the items alone."""
        if number < self.phases(self.stage.epochs)[0]:
            self._fixed_states = None
        elif self._fixed_states is None:
            self._fixed_states = self._states_of_sets()
        return super().epoch(number)

    def phases(self, epochs: int) -> tuple[int, int]:
        """See :meth:`fastncf.trainers.base.Trainer.phases`: epochs that train states, and epochs beside fixed ones."""
        return phases_of_sets(self.split, epochs)

    def _states_of_sets(self) -> np.ndarray:
        """Return the states of the whole sets of all users, (U * width,) float32."""
        self._encode_users()
        states = self._memory_of_states(len(self.model.user_vectors) * self.width)
        states.reshape(-1, self.width)[:, : self.stage.dim] = self.model.user_vectors
        return states

    def _memory_of_states(self, count: int) -> np.ndarray:
        """Return memory for a number of float32."""
        return aligned_zeros(count)

    def _items_of_users(self) -> np.ndarray:
        """Return the items in an order that is the same in all epochs, so that states have the same bits."""
        return self.split.indices

    def _scratch_size(self) -> int:
        """Return how many numbers a thread needs for itself."""
        return super()._scratch_size() + SET_ROWS * self.width

    def start_from(self, factors: Factors, encoder: HistoryEncoder | None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.start_from`; users have no vectors of their own."""
        if encoder is None:
            raise ValueError("encoder: expected one")
        state = self.state_dict()
        state["parameters.history_vectors"] = encoder.vectors
        state["parameters.item_vectors"], state["parameters.item_bias"] = factors.item_vectors, factors.item_bias
        self.load_state_dict(state)

    @property
    def encoder(self) -> HistoryEncoder:
        """Encoder of histories with the parameters as they are; copies."""
        return encoder_of_sets(self._history_vectors())


def encoder_of_sets(vectors: np.ndarray) -> HistoryEncoder:
    """Return the encoder of sets to states of the length ``STATE_LENGTH``, by history vectors (I, D) float32."""
    ones = np.ones((1, vectors.shape[1]), dtype=np.float32)
    return HistoryEncoder(vectors, ones, ones, np.array([True]), LONGEST, STATE_LENGTH)


def phases_of_sets(split: Split, epochs: int) -> tuple[int, int]:
    """Return how many of the epochs train states, and how many the items alone beside fixed states."""
    is_sparse = len(split.indices) < SPARSE_BELOW * split.num_items
    fixed = round(epochs * (FIXED_SHARE_OF_SPARSE if is_sparse else FIXED_SHARE))
    return epochs - fixed, fixed


def bits_of_sets(stage: Stage, epoch: int) -> np.random.BitGenerator:
    """Return the random bits by which large sets are divided in an epoch."""
    return np.random.Philox(key=key(stage.seed, Stream.HISTORIES, epoch if stage.shuffle else 0, 1))


def set_windows(split: Split, bits: np.random.BitGenerator) -> Windows:
    """Divide the sets of all users that have two items or more into windows of at most ``LARGEST_WINDOW`` items.

    The parts of a set are drawn at random, and are of about the same length, at least 2.
    """
    windows = parts_of_sets(split)
    rows = np.arange(len(split.indices))
    places, users = divided_places(split)
    rows[places] = places[np.lexsort((np.random.Generator(bits).random(len(places)), users))]
    weights = windows.interaction_weights
    return windows._replace(items=windows.items[rows], interaction_weights=weights[rows] if len(weights) else weights)


def parts_of_sets(split: Split) -> Windows:
    """Return :func:`set_windows` before items are drawn: those of each user stand in the order of the split."""
    sizes = np.diff(split.indptr)
    parts = np.where(sizes > 1, -(-sizes // LARGEST_WINDOW), 0)
    users = np.repeat(np.arange(len(sizes)), parts)
    part = np.arange(len(users)) - np.repeat(np.cumsum(parts) - parts, parts)
    starts, ends = (split.indptr[users] + sizes[users] * number // parts[users] for number in (part, part + 1))
    return Windows(
        indptr=split.indptr,
        items=split.indices,
        users=users.astype(np.int32),
        starts=starts,
        contexts=np.zeros(len(users), dtype=np.int32),
        lengths=(ends - starts).astype(np.int32),
        interaction_weights=weights_of(split),
    )


def divided_places(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the places (n,) int64 in ``split.indices`` of the items of sets that are divided, and their users (n,)."""
    sizes = np.diff(split.indptr)
    places = np.flatnonzero(np.repeat(sizes > LARGEST_WINDOW, sizes))
    return places, np.repeat(np.arange(len(sizes)), sizes)[places]
