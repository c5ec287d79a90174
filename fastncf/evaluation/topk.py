"""Top items of a user, and the rows of a table that are most similar to a row, as NumPy arrays of indices.

torch is imported when a module is asked: factors that a kernel has trained are ranked by arrays alone.
"""

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastncf.data.split import Split
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.quantized import QuantizedItems, answer_few, quantize_items, top_few
from fastncf.kernels.cpu.topk import Best, ItemTiles, LeftOut, Request, flatten_best, tile_items, top_rows
from fastncf.threads import even_ranges, run_ranges

if TYPE_CHECKING:
    from torch import Tensor, nn

_BYTES_PER_ITEM = 20  # two copies of the score in float32, comparisons, and counts in int32
_BYTES_PER_RESULT = 64  # an item and its score among the best k, also before they are in order

_LEAST_NORM = 1e-12
_MANY_USERS = 256  # to arrange the items takes as long as the scores of some dozens of users
_SMALL_BYTES = 1 << 24
FEW_USERS = 32
"""Users below which one thread answers a request: to start another takes as long as the scores of some users."""


class Answer(NamedTuple):
    """The best items of all users of a request, those of a user together and best first.

    Attributes:
        users: (n,) int32.
        items: (n,) int32.
        scores: (n,) float32.
        ranks: (n,) int32, from 1.
    """

    users: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray


def flatten(user_ids: np.ndarray, best: Best) -> Answer:
    """Return the best items of users (B,) int32 one after the other."""
    size = int(best.counts.sum())
    users, items, ranks = (np.empty(size, dtype=np.int32) for _ in range(3))
    answer = Answer(users, items, np.empty(size, dtype=np.float32), ranks)
    flatten_best(user_ids, best, *answer)
    return answer


class FactorItems:
    """Items of a matrix factorization, arranged at the first request to answer many requests for the best of them.

    Args:
        factors: parameters of U users and I items.
    """

    def __init__(self, factors: Factors) -> None:
        self.factors = factors

    @functools.cached_property
    def _quantized(self) -> QuantizedItems:
        """Items for few users; their codes take a quarter of the memory of the item vectors."""
        return quantize_items(self.factors)

    @functools.cached_property
    def _tiles(self) -> ItemTiles:
        """Items for many users.

        They are copied where they take at most 16 MiB or an eighth of the users' vectors. A larger catalogue is
        arranged tile by tile in each request, so that the memory of a model does not double.
        """
        size = self.factors.item_vectors.nbytes
        return tile_items(self.factors, copied=size <= max(_SMALL_BYTES, self.factors.user_vectors.nbytes // 8))

    def for_users(self, factors: Factors) -> "FactorItems":
        """Return the same items, whose arrays are shared, for the users of other factors with these items."""
        others = FactorItems(factors)
        others.__dict__.update(_quantized=self._quantized)
        if "_tiles" in self.__dict__:
            others.__dict__.update(_tiles=self._tiles)
        return others

    def top(self, user_ids: np.ndarray, k: int, left_out: LeftOut) -> Best:
        """Return the k items with the highest scores of each user.

        The result is that of :func:`top_items` for an ``MF`` of these factors up to rounding, and has the same bits
        for a user whoever else is asked for.

        Args:
            user_ids: (B,) int32.
            k: at least 1.
            left_out: items that are not taken.
        """
        best = Best.empty(len(user_ids), min(k, len(self.factors.item_vectors)))
        request = Request(user_ids, self.factors.user_vectors, self.factors.user_bias, left_out)
        if len(user_ids) < FEW_USERS:
            top_few(self._quantized, request, best)
        else:
            tiles = self._tiles
            run_ranges(lambda a, b: top_rows(a, b, tiles, request, best), even_ranges(len(user_ids)))
        return best

    def answer(self, user_ids: np.ndarray, k: int, split: Split, *, leaves_out: bool, is_open: np.ndarray) -> Answer:
        """Return the same for a few users, flattened, in a fraction of the time.

        Args:
            user_ids: (B,) int32.
            k: at least 1.
            split: what users have seen.
            leaves_out: whether that is not taken.
            is_open: see :class:`~fastncf.kernels.cpu.topk.LeftOut`.
        """
        users = user_ids, self.factors.user_vectors, self.factors.user_bias
        k = min(k, len(self.factors.item_vectors))
        return Answer(*answer_few(users, split.seen_source, leaves_out, is_open, self._quantized, k))


class ModuleItems:
    """Items that a module scores, by its parameters as they are now.

    Args:
        model: scores (user ids, item ids).
        num_items: I.
        num_users: users who are going to be asked for. For many, the items of a module whose scores are those of a
            matrix factorization are arranged as :class:`FactorItems` are.
    """

    def __init__(self, model: "nn.Module", num_items: int, num_users: int) -> None:
        self._model, self._num_items = model, num_items
        self._factor_items: FactorItems | None = None
        if num_users >= _MANY_USERS:
            from fastncf.models.scorers import make_scorer

            factors = make_scorer(model).factors
            if factors is not None:  # a module of the user's own may have more rows than there are items
                item_vectors, item_bias = factors.item_vectors[:num_items], factors.item_bias[:num_items]
                self._factor_items = FactorItems(factors._replace(item_vectors=item_vectors, item_bias=item_bias))

    def top(self, user_ids: np.ndarray, k: int, left_out: LeftOut) -> Best:
        """Return the k items with the highest scores of each user; see :func:`top_items`."""
        if self._factor_items is not None:
            return self._factor_items.top(user_ids, k, left_out)
        return top_items(self._model, user_ids, self._num_items, k, left_out)


def top_items(model: "nn.Module", user_ids: np.ndarray, num_items: int, k: int, left_out: LeftOut) -> Best:
    """Return the k items that a module scores highest for each user.

    Args:
        model: scores (user ids, item ids).
        user_ids: (B,) int32.
        num_items: I.
        k: at least 1.
        left_out: items that are not taken.

    Raises:
        DeviceError: the memory of the model's device runs out.
    """
    import torch

    from fastncf.evaluation.scoring import ChunkedScorer, device_of, evaluating
    from fastncf.models.scorers import make_scorer

    device = device_of(model)
    results = Best.empty(len(user_ids), min(k, num_items))
    with evaluating(model, device):
        chunked = ChunkedScorer(make_scorer(model), device, len(user_ids) * num_items)

        def choose(part: slice) -> None:
            found = chunked.catalogue(torch.from_numpy(user_ids[part]).to(device), num_items)
            found = _make_sortable(found.to("cpu", torch.float32, copy=True))
            _leave_out(found.numpy(), part.start, left_out)
            best, item = _best_columns(found, results.items.shape[1])
            results.items[part], results.scores[part] = item.numpy(), best.numpy()

        bytes_per_user = chunked.bytes_per_catalogue(num_items) + num_items * _BYTES_PER_ITEM
        chunked.for_each_chunk(choose, len(user_ids), bytes_per_user + results.items.shape[1] * _BYTES_PER_RESULT)
    np.sum(results.scores > -np.inf, axis=1, out=results.counts)
    return results


def similar_rows(vectors: np.ndarray, ids: np.ndarray, k: int) -> Best:
    """Return the rows of a table whose vectors have the largest cosine with that of a row, the row itself left out.

    Equal cosines come in the order of the rows; a vector of zeros has cosine 0 with any other. The memory is twice that
    of the table, in float32.

    Args:
        vectors: (R, D) of any float dtype.
        ids: (n,) int32, rows.
        k: at least 1; fewer are returned where there are fewer.
    """
    unit = unit_vectors(vectors)
    no_bias = np.zeros(len(unit), dtype=np.float32)
    own = LeftOut(np.arange(len(ids) + 1, dtype=np.int64), ids, np.empty(0, dtype=np.bool_))
    return FactorItems(Factors(unit, unit, no_bias, no_bias)).top(ids, k, own)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (R, D) divided by their lengths, float32; vectors of 0 stay 0."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = (vectors / np.maximum(norms, _LEAST_NORM)).astype(np.float32, copy=False)
    return unit


def _make_sortable(scores: "Tensor") -> "Tensor":
    """Replace NaN and -inf in place by the lowest finite number, so that -inf can mark what is left out."""
    import torch

    lowest = torch.finfo(scores.dtype).min
    return scores.nan_to_num_(nan=lowest, neginf=lowest, posinf=torch.inf)


def _leave_out(scores: np.ndarray, first: int, left_out: LeftOut) -> None:
    """Set the scores (n, I) of items that are left out for the users from number ``first`` on to -inf."""
    indptr, indices, is_open = left_out
    for row in range(len(scores)):
        scores[row, indices[indptr[first + row] : indptr[first + row + 1]]] = -np.inf
    if len(is_open):
        scores[:, ~is_open] = -np.inf


def _best_columns(scores: "Tensor", k: int) -> tuple["Tensor", "Tensor"]:
    """Return the k highest scores (B, k) of each row, best first, and their columns (B, k) int64.

    Equal scores come in the order of the columns, which ``torch.topk`` does not promise.

    Args:
        scores: (B, I), without NaN.
        k: at most I.
    """
    import torch

    if not k:
        return scores[:, :0], scores.new_empty((len(scores), 0), dtype=torch.int64)
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    columns = columns[:, :k]
    if k < scores.shape[1]:
        rows = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)  # the last place is open to several columns
        if len(rows):
            columns[rows] = _first_columns(scores[rows], values[rows, k - 1 : k], k)
    columns = columns.sort(dim=1).values
    best, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return best, columns.gather(1, order)


def _first_columns(scores: "Tensor", lowest: "Tensor", k: int) -> "Tensor":
    """Return the columns (B, k), in order, of the scores above ``lowest`` and of the first ones that equal it.

    Args:
        scores: (B, I).
        lowest: (B, 1), the k-th highest score of each row.
        k: at most I.
    """
    import torch

    is_above, is_tied = scores > lowest, scores == lowest
    num_tied = k - is_above.sum(1, keepdim=True, dtype=torch.int32)  # int64 would take twice the memory
    is_best = is_above | (is_tied & (is_tied.cumsum(1, dtype=torch.int32) <= num_tied))
    return is_best.nonzero()[:, 1].view(len(scores), k)
