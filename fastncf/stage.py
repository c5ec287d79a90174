"""Settings of one training run, each with a value."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

BY_STATES = frozenset({"next_item", "cuda_next_item", "other_items", "cuda_other_items"})
"""Trainers of an mf whose users are states that their histories are encoded to, in their order or without one."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One model, trained from its first epoch to its last by one trainer.

    A :class:`~fastncf.plan.Plan` has one stage, or several where a model is made of pre-trained ones. No
    setting is left open: what :class:`~fastncf.config.Config` leaves out is filled in by :mod:`fastncf.plan`.

    Attributes:
        model: registered name of the model, or the class name of a module of the user's own.
        trainer: name of the trainer, see :data:`fastncf.trainers.TRAINERS`.
        optimizer: ``sgd`` takes a step for each interaction, ``adam`` for each batch.
        device: torch device, such as ``cpu`` or ``cuda:0``.
        start: where the parameters come from before the first epoch: drawn at ``random``, taken over from the
            embeddings of the stage before (``pretrained``), or combined from the models of the two stages before
            (``joined``).
        dim: D, length of an embedding vector.
        mlp_dim: length of the vectors that enter the hidden layers of ``neumf``; D for other models.
        layers: widths of the hidden layers of ``mlp`` and ``neumf``.
        dropout: probability that an activation of a hidden layer, or a component of a state, is set to 0 in training.
        init_std: standard deviation of the embedding vectors before the first epoch.
        loss: name of the loss, see :data:`fastncf.models.losses.LOSSES`.
        num_negatives: K, sampled negatives for each training interaction, or for all of a batch (``next_item``,
            ``other_items``).
        negatives: name of the distribution of the negatives, see :data:`fastncf.sampling.distributions.DISTRIBUTIONS`.
        negatives_exponent: power of an item's number of interactions, for distributions by popularity.
        history: what a user's vector is made of beside one of its own: the items of the training history in their
            order (``sequence``), the same without an order (``bag``), or nothing (``none``).
        epochs: passes over the training interactions.
        batch_size: samples in a step, where an interaction and its negatives count as 1 + K; positions (``next_item``,
            ``other_items``).
        learning_rate: step size at the start.
        schedule: ``linear`` lets the learning rate fall to 0 over all steps; ``constant`` keeps it.
        l2: weight of the mean squared norm of the embedding vectors in a step, added to its mean loss.
        shuffle: draw the order of the interactions anew each epoch; otherwise the order of epoch 0 serves all.
        precision: dtype of matrix products under ``adam``; parameters, sums and losses are float32.
        deterministic: use only operations that give the same bits on every run on the same CUDA device.
        seed: determines parameters, negatives, order and dropout.
        has_weights: whether the loss of each interaction is multiplied by a weight.
        horizon: places by which interactions of a history change their order in training, drawn anew in each epoch
            (``next_item``): 1 for none, another integer, or a share of the history, a number below 1.
    """

    model: str
    trainer: str
    optimizer: Literal["sgd", "adam"]
    device: str
    dim: int
    mlp_dim: int
    layers: tuple[int, ...]
    dropout: float
    init_std: float
    loss: str
    num_negatives: int
    negatives: str
    negatives_exponent: float
    history: Literal["sequence", "bag", "none"]
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Literal["constant", "linear"]
    l2: float
    shuffle: bool
    precision: Literal["float32", "bfloat16"]
    deterministic: bool
    seed: int
    has_weights: bool = False
    horizon: float = 1
    start: Literal["random", "pretrained", "joined"] = "random"

    def learning_rate_at(self, progress: np.ndarray) -> np.ndarray:
        """Return the learning rates (n,) after shares ``progress`` (n,) of all steps, from 0 to 1."""
        return self.learning_rate * (1 - progress if self.schedule == "linear" else np.ones_like(progress))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values that JSON can hold."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Stage":
        """Return the stage that :meth:`to_dict` described."""
        return cls(**{**values, "layers": tuple(values["layers"])})
