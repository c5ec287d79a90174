"""Scorers: scores of many pairs at once, with what depends on the user or on the item alone computed once.

:func:`make_scorer` asks the model for its scorer. :mod:`fastncf.evaluation.scoring` calls it within a memory budget.
"""

import functools
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from fastncf.device import has_tf32, triton_works
from fastncf.errors import ConfigError
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.ranking import dot_lists
from fastncf.models.layers import Embedding

_HOOKS = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
_UNKNOWN_PAIR_BYTES = 1024


class Scorer(ABC):
    """Scores pairs by the parameters of a model as they are when the scorer is made.

    A scorer is made for one evaluation or one request and then thrown away. It is called without gradients, with the
    model in evaluation mode. Its results are valid until its next call. They may be views of the model's parameters,
    so that callers must not write to them.

    Memory is stated in bytes beside the arguments and the parameters, results included: a call of :meth:`lists` for B
    users with C items each takes at most ``B * (user_bytes() + C * list_bytes())``, a call of :meth:`catalogue` for B
    users and I items at most ``B * (user_bytes() + I * catalogue_bytes())``.
    """

    @abstractmethod
    def lists(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Return scores (B, C) of users (B,) int32 with a list of items each, (B, C) int32."""

    def catalogue(self, user_ids: Tensor, num_items: int) -> Tensor:
        """Return scores (B, I) of users (B,) int32 with all items."""
        item_ids = torch.arange(num_items, dtype=torch.int32, device=user_ids.device)
        return self.lists(user_ids, item_ids.expand(len(user_ids), -1))

    @abstractmethod
    def list_bytes(self) -> int:
        """Return the bytes that a pair takes in :meth:`lists`."""

    def catalogue_bytes(self) -> int:
        """Return the bytes that a pair takes in :meth:`catalogue`."""
        return self.list_bytes()

    def user_bytes(self) -> int:
        """Return the bytes that a user takes in :meth:`lists` and :meth:`catalogue`, beside those of its pairs."""
        return 0

    def table_bytes(self) -> int:
        """Return the bytes that :meth:`precompute` takes and keeps."""
        return 0

    def table_pairs(self) -> int:
        """Return the number of pairs from which on :meth:`precompute` saves more time than it takes."""
        return 0

    def precompute(self) -> None:  # noqa: B027 (a scorer may have no tables)
        """Compute tables of what depends on the user or on the item alone, for all users and items."""

    @property
    def factors(self) -> Factors | None:
        """Matrix factorization that computes the same scores, in float32 on the CPU; None where there is none."""
        return None


def make_scorer(model: nn.Module) -> Scorer:
    """Return the scorer of a model.

    That is ``model.scorer()`` where the class of the model itself defines the method. A class that inherits it, or has
    none, may have a ``forward`` of its own and is scored by that; so is a model with hooks, which may change scores.
    """
    own = vars(type(model)).get("scorer")
    return ModuleScorer(model) if own is None or changed_forward(model) is not None else own(model)


def changed_forward(model: nn.Module) -> str | None:
    """Return the layer of a model that computes something else than its class does, in words; None where none does.

    That is a layer with hooks or with a ``forward`` of its own, and an embedding or a linear layer of another class
    than those of torch and of this package, such as a parametrized one.
    """
    for name, layer in model.named_modules():
        own = vars(layer)
        where = name or "the module"
        if any(own.get(hooks) for hooks in _HOOKS):
            return f"{where} has hooks"
        if "forward" in own:
            return f"{where} has a forward of its own"
        if isinstance(layer, nn.Embedding | nn.Linear) and type(layer) not in (nn.Embedding, Embedding, nn.Linear):
            return f"{where} is a {type(layer).__name__}"
    return None


class ScratchBuffer:
    """Memory that one call after the other writes to, since fresh pages cost more time than the arithmetic."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, device="cpu")

    def take(self, *shape: int, like: Tensor) -> Tensor:
        """Return a tensor of a shape, with the dtype and device of ``like`` and any values."""
        size = math.prod(shape)
        if self._memory.numel() < size or self._memory.device != like.device or self._memory.dtype != like.dtype:
            self._memory = torch.empty(0, device="cpu")  # frees the old memory before the new is allocated
            self._memory = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._memory[:size].view(shape)


class DotScorer(Scorer):
    """Scores that are dot products of a user's and an item's vector, plus biases.

    Args:
        user_vectors: (U, D).
        item_vectors: (I, D).
        weight: (1, D), multiplied by the user vectors; ones where it is not given.
        biases: (U,) and (I,) added to the dot product; none where they are not given.
    """

    def __init__(
        self,
        user_vectors: Tensor,
        item_vectors: Tensor,
        *,
        weight: Tensor | None = None,
        biases: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self._user, self._item = user_vectors.detach().contiguous(), item_vectors.detach().contiguous()
        self._weight = None if weight is None else weight.detach()
        self._biases = None if biases is None else (biases[0].detach(), biases[1].detach())
        self._stacked_items: Tensor | None = None
        is_float32 = self._user.dtype == torch.float32
        self._by_kernel = is_float32 and self._user.device.type == "cpu"
        self._by_triton = is_float32 and triton_works(self._user.device)
        self._scores = ScratchBuffer()

    @functools.cached_property
    def factors(self) -> Factors | None:
        if not self._by_kernel or self._biases is None:
            return None
        user = self._user if self._weight is None else self._user * self._weight
        return Factors(*(table.contiguous().numpy() for table in (user, self._item, *self._biases)))

    def list_bytes(self) -> int:
        if self._by_kernel or self._by_triton:
            return 12  # the score, the item's bias and its id
        return self._user.element_size() * (self._user.shape[1] + 4) + 8  # copies of the items' vectors and their ids

    def catalogue_bytes(self) -> int:
        return self._user.element_size()

    def user_bytes(self) -> int:
        return 3 * self._user.element_size() * (self._user.shape[1] + 2)

    def table_bytes(self) -> int:
        return 0 if self._biases is None else self._item.element_size() * len(self._item) * (self._item.shape[1] + 2)

    def table_pairs(self) -> int:
        return 32 * len(self._item)

    def precompute(self) -> None:
        """Append the biases to the item vectors, so that a matrix product gives the scores of a catalogue."""
        if self._biases is not None:
            item_bias = self._biases[1]
            self._stacked_items = torch.column_stack([self._item, torch.ones_like(item_bias), item_bias])

    def lists(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        scores = self._list_dots(*self._vectors(user_ids), item_ids)
        if self._biases is not None and self._stacked_items is None:
            user_bias, item_bias = self._biases
            scores += user_bias.index_select(0, user_ids).unsqueeze(1)
            scores += item_bias.index_select(0, item_ids.reshape(-1)).view(item_ids.shape)
        return scores

    def catalogue(self, user_ids: Tensor, num_items: int) -> Tensor:
        user, item = self._vectors(user_ids)
        item = item[:num_items]  # a module of the user's own may have more rows than there are items
        scores = torch.mm(user, item.T, out=self._scores.take(len(user), len(item), like=user))
        if self._biases is not None and self._stacked_items is None:
            user_bias, item_bias = self._biases
            scores += user_bias.index_select(0, user_ids).unsqueeze(1)
            scores += item_bias[:num_items]
        return scores

    def _vectors(self, user_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors of the users (B, D) and of all items (I, D); with biases in them where they are stacked."""
        user = self._user.index_select(0, user_ids)
        if self._weight is not None:
            user *= self._weight
        if self._stacked_items is None or self._biases is None:
            return user, self._item
        user_bias = self._biases[0].index_select(0, user_ids)
        return torch.column_stack([user, user_bias, torch.ones_like(user_bias)]), self._stacked_items

    def _list_dots(self, user: Tensor, item: Tensor, item_ids: Tensor) -> Tensor:
        """Return dot products (B, C) of vectors (B, D) with those of a table (I, D) at ``item_ids`` (B, C)."""
        rows = torch.arange(len(user), dtype=torch.int32, device=user.device)
        if self._by_kernel:
            out = self._scores.take(*item_ids.shape, like=user)
            dot_lists(*(tensor.numpy() for tensor in (rows, item_ids.int(), user, item, out)))
            return out
        if self._by_triton:
            from fastncf.kernels.cuda.rows import Dot  # Triton is not installed on every machine

            return Dot.apply(user, item, torch.ones_like(user[0]), rows, item_ids)
        return torch.bmm(item[item_ids.long()], user.unsqueeze(-1)).squeeze(-1)


class HiddenLayersScorer(Scorer):
    """Scores of ReLU layers over the concatenated vectors of a user and an item.

    The first layer is linear before its activation: its output is a part of the user plus a part of the item. Either
    is computed once for all pairs that need it.

    Args:
        hidden: linear layers; the first takes D + E inputs.
        user_vectors: (U, D).
        item_vectors: (I, E).
        output: weight (1, H) and bias (1,) of the score.
    """

    def __init__(
        self, hidden: nn.ModuleList, user_vectors: Tensor, item_vectors: Tensor, output: tuple[Tensor, Tensor]
    ) -> None:
        first, *rest = (layer for layer in hidden if isinstance(layer, nn.Linear))
        self._user, self._item = user_vectors.detach(), item_vectors.detach()
        self._bias: Tensor = first.bias
        self._user_weight, self._item_weight = first.weight.split([self._user.shape[1], self._item.shape[1]], dim=1)
        self._layers: list[tuple[Tensor, Tensor]] = [(layer.weight.contiguous(), layer.bias) for layer in rest]
        self._output = torch.cat([output[0].reshape(-1), output[1]])
        self._tables: tuple[Tensor, Tensor] | None = None
        self._by_triton = bool(rest) and self._user.dtype == torch.float32 and has_tf32(self._user.device)
        self._buffers = [ScratchBuffer() for _ in range(len(rest) + 2)]

    def list_bytes(self) -> int:
        widths = [len(bias) for _, bias in self._layers]
        if self._by_triton:
            written = sum(widths[:-1]) + (0 if self._tables else self._item.shape[1] + len(self._bias))
        else:
            written = len(self._bias) + sum(widths) + (0 if self._tables else self._item.shape[1])
        return self._user.element_size() * (written + 4)  # + 4: the score, ids

    def catalogue_bytes(self) -> int:
        written = 0 if self._tables else len(self._bias)  # the items' part, as if each user had its own
        return self.list_bytes() + self._user.element_size() * written

    def user_bytes(self) -> int:
        return self._user.element_size() * (self._user.shape[1] + len(self._bias))

    def table_bytes(self) -> int:
        return self._user.element_size() * len(self._bias) * (len(self._user) + len(self._item))

    def table_pairs(self) -> int:
        return 2 * (len(self._user) + len(self._item))

    def precompute(self) -> None:
        """Compute the first layer's part of all users (U, H) and of all items (I, H)."""
        user_part = torch.addmm(self._bias, self._user, self._user_weight.T)
        self._tables = user_part, self._item @ self._item_weight.T

    def lists(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        if self._by_triton:
            return self._lists_by_triton(user_ids, item_ids)
        flat = item_ids.reshape(-1)
        x = self._buffers[0].take(len(flat), len(self._bias), like=self._item)
        if self._tables is None:
            torch.mm(self._item.index_select(0, flat), self._item_weight.T, out=x)
        else:
            torch.index_select(self._tables[1], 0, flat, out=x)
        x.view(*item_ids.shape, -1).add_(self._user_part(user_ids).unsqueeze(1)).relu_()
        return self._score(x).view(item_ids.shape)

    def catalogue(self, user_ids: Tensor, num_items: int) -> Tensor:
        if self._by_triton:
            item_ids = torch.arange(num_items, dtype=torch.int32, device=user_ids.device)
            return self.lists(user_ids, item_ids.expand(len(user_ids), -1))
        if self._tables is None:
            item_part = self._item[:num_items] @ self._item_weight.T
        else:
            item_part = self._tables[1][:num_items]
        x = self._buffers[0].take(len(user_ids), *item_part.shape, like=item_part)
        torch.add(self._user_part(user_ids).unsqueeze(1), item_part, out=x).relu_()
        return self._score(x.view(-1, item_part.shape[1])).view(len(user_ids), num_items)

    def _user_part(self, user_ids: Tensor) -> Tensor:
        """Return the first layer's part (B, H) of users (B,), its bias included."""
        if self._tables is not None:
            return self._tables[0].index_select(0, user_ids)
        return torch.addmm(self._bias, self._user.index_select(0, user_ids), self._user_weight.T)

    def _score(self, x: Tensor) -> Tensor:
        """Return scores (n, 1) of the first layer's activations (n, H)."""
        for (weight, bias), buffer in zip(self._layers, self._buffers[1:-1], strict=True):
            x = torch.addmm(bias, x, weight.T, out=buffer.take(len(x), len(bias), like=x)).relu_()
        weight, bias = self._output[:-1].unsqueeze(1), self._output[-1:]
        return torch.addmm(bias, x, weight, out=self._buffers[-1].take(len(x), 1, like=x))

    def _lists_by_triton(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Return the scores (B, C) of :meth:`lists`, by the Triton kernel."""
        from fastncf.kernels.cuda.scores import score_by_layers  # Triton is not installed on every machine

        scores = torch.empty(item_ids.shape, dtype=torch.float32, device=self._user.device)
        if self._tables is not None:
            score_by_layers(scores, *self._tables, user_ids, item_ids.contiguous(), self._layers, self._output)
            return scores
        item_part = self._item.index_select(0, item_ids.reshape(-1)) @ self._item_weight.T
        rows = torch.arange(len(user_ids), dtype=torch.int32, device=user_ids.device)
        columns = torch.arange(item_ids.numel(), dtype=torch.int32, device=user_ids.device).view(item_ids.shape)
        score_by_layers(scores, self._user_part(user_ids), item_part, rows, columns, self._layers, self._output)
        return scores


class SumScorer(Scorer):
    """Sums of a score by hidden layers and of a dot product.

    Args:
        hidden: scores of the first kind.
        dot: scores of the second kind.
    """

    def __init__(self, hidden: HiddenLayersScorer, dot: DotScorer) -> None:
        self._hidden, self._dot = hidden, dot

    def lists(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        return self._hidden.lists(user_ids, item_ids).add_(self._dot.lists(user_ids, item_ids))

    def catalogue(self, user_ids: Tensor, num_items: int) -> Tensor:
        return self._hidden.catalogue(user_ids, num_items).add_(self._dot.catalogue(user_ids, num_items))

    def list_bytes(self) -> int:
        return self._hidden.list_bytes() + self._dot.list_bytes()

    def catalogue_bytes(self) -> int:
        return self._hidden.catalogue_bytes() + self._dot.catalogue_bytes()

    def user_bytes(self) -> int:
        return self._hidden.user_bytes() + self._dot.user_bytes()

    def table_bytes(self) -> int:
        return self._hidden.table_bytes() + self._dot.table_bytes()

    def table_pairs(self) -> int:
        return self._hidden.table_pairs()

    def precompute(self) -> None:
        self._hidden.precompute()
        self._dot.precompute()


class ModuleScorer(Scorer):
    """Scores of any module by its ``forward``; see :func:`score_lists`.

    The memory that a module takes for a pair is not known. The guess is twice the outputs, float32, of all its
    ``nn.Embedding`` and ``nn.Linear`` layers, which covers a chain of layers with an activation after each; at least
    1,024 bytes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def lists(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        return score_lists(self._model, user_ids, item_ids)

    def list_bytes(self) -> int:
        width = 0
        for layer in self._model.modules():
            if isinstance(layer, nn.Embedding):
                width += layer.embedding_dim
            elif isinstance(layer, nn.Linear):
                width += layer.out_features
        return max(_UNKNOWN_PAIR_BYTES, 8 * width)


def score_lists(model: nn.Module, user_ids: Tensor, item_ids: Tensor) -> Tensor:
    """Return scores of each user's own list of items by the ``forward`` of any model.

    A class with ``broadcasts_ids = True`` is called with broadcast shapes, any other module with two flat tensors of
    equal length; see :mod:`fastncf.models`.

    Args:
        model: scores (user ids, item ids).
        user_ids: (B,) int.
        item_ids: (B, C) int.

    Returns:
        (B, C) float.

    Raises:
        ConfigError: the module returned no floating-point tensor, or another number of scores than it got pairs.
    """
    if getattr(model, "broadcasts_ids", False):
        scores = model(user_ids.unsqueeze(-1), item_ids)
        shape, fits = tuple(item_ids.shape), isinstance(scores, Tensor) and scores.shape == item_ids.shape
    else:
        scores = model(user_ids.repeat_interleave(item_ids.shape[1]), item_ids.reshape(-1))
        shape, fits = (item_ids.numel(),), isinstance(scores, Tensor) and scores.numel() == item_ids.numel()
    if not fits or not scores.dtype.is_floating_point:
        what = f"{scores.dtype} of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ConfigError(
            f"model={type(model).__name__}: forward returned {what} for ids of shape {shape}; expected a "
            f"floating-point tensor with one score for each (user, item)"
        )
    return scores.reshape(item_ids.shape)


def why_not_by_kernels(model: nn.Module) -> str | None:
    """Return why kernels that know the class of a model cannot train this object of it; None if they can.

    They compute what the class does, for parameters that are float32, trained, and in memory of their own.
    """
    if (reason := changed_forward(model)) is not None:
        return reason
    for name, layer in model.named_modules():
        if type(layer) is nn.Embedding and (
            layer.sparse or layer.scale_grad_by_freq or layer.max_norm is not None or layer.padding_idx is not None
        ):
            return f"{name} has padding_idx, max_norm, scale_grad_by_freq or sparse"
    storages: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.dtype != torch.float32:
            return f"{name} is {parameter.dtype}, and the kernels take float32"
        if not parameter.requires_grad:
            return f"{name} is frozen, and the kernels train all parameters"
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return f"{name} has hooks"
        other = storages.setdefault(parameter.untyped_storage().data_ptr(), name) if parameter.numel() else name
        if other != name:
            return f"{name} shares its memory with {other}"
    return None
