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
from fastncf.kernels.cpu.encoder import LONGEST, HistoryEncoder
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.next_item import Windows
from fastncf.kernels.cpu.sets import SET_ROWS
from fastncf.kernels.cpu.simd import aligned_zeros
from fastncf.rng import Stream, key
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
        turn = epoch if self.stage.shuffle else 0
        return set_windows(self.split, np.random.Philox(key=key(self.stage.seed, Stream.HISTORIES, turn, 1)))

    def epoch(self, number: int) -> float:
        """See :meth:`fastncf.trainers.next_item.NextItem.epoch`; the last epochs train the items alone."""
        if number < self.phases(self.stage.epochs)[0]:
            self._fixed_states = None
        elif self._fixed_states is None:
            self._fixed_states = self._states_of_sets()
        return super().epoch(number)

    def phases(self, epochs: int) -> tuple[int, int]:
        """See :meth:`fastncf.trainers.base.Trainer.phases`: epochs that train states, and epochs beside fixed ones."""
        is_sparse = len(self.split.indices) < SPARSE_BELOW * self.num_items
        fixed = round(epochs * (FIXED_SHARE_OF_SPARSE if is_sparse else FIXED_SHARE))
        return epochs - fixed, fixed

    def _states_of_sets(self) -> np.ndarray:
        """Return the states of the whole sets of all users, (U * width,) float32."""
        self._encode_users()
        states = self._memory_of_states(len(self.model.user_vectors) * self.width)
        states.reshape(-1, self.width)[:, : self.stage.dim] = self.model.user_vectors
        return states

    def _memory_of_states(self, count: int) -> np.ndarray:
        """Return memory for a number of float32."""
        return aligned_zeros(count)

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
        vectors = self._history_vectors()
        ones = np.ones((1, vectors.shape[1]), dtype=np.float32)
        return HistoryEncoder(vectors, ones, ones, np.array([True]), LONGEST, self.state_length)


def set_windows(split: Split, bits: np.random.BitGenerator) -> Windows:
    """Divide the sets of all users that have two items or more into windows of at most ``LARGEST_WINDOW`` items.

    The parts of a set are drawn at random, and are of about the same length, at least 2.
    """
    sizes = np.diff(split.indptr)
    parts = np.where(sizes > 1, -(-sizes // LARGEST_WINDOW), 0)
    users = np.repeat(np.arange(len(sizes)), parts)
    part = np.arange(len(users)) - np.repeat(np.cumsum(parts) - parts, parts)
    starts, ends = (split.indptr[users] + sizes[users] * number // parts[users] for number in (part, part + 1))
    rows = _shuffled_rows(split, parts > 1, np.random.Generator(bits))
    weights = weights_of(split)
    return Windows(
        indptr=split.indptr,
        items=split.indices[rows],
        users=users.astype(np.int32),
        starts=starts,
        contexts=np.zeros(len(users), dtype=np.int32),
        lengths=(ends - starts).astype(np.int32),
        interaction_weights=weights[rows] if len(weights) else weights,
    )


def _shuffled_rows(split: Split, is_shuffled: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the rows (N,) int64 of the split user by user, those of some users (U,) bool in a random order."""
    sizes = np.diff(split.indptr)
    rows = np.arange(len(split.indices))
    places = np.flatnonzero(np.repeat(is_shuffled, sizes))
    users = np.repeat(np.arange(len(sizes)), sizes)[places]
    rows[places] = places[np.lexsort((generator.random(len(places)), users))]
    return rows
