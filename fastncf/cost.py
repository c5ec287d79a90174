"""Memory and time to expect of a fit, from its settings and the size of the data.

The speeds are those of MovieLens-1M on two cores of a Xeon in November 2026; that of CUDA is of an H100.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from fastncf.stage import BY_STATES, Stage
from fastncf.threads import num_threads

_SGD_TRAINERS = "history_sgd", "block_sgd"
_WITHOUT_TORCH = *_SGD_TRAINERS, "next_item", "other_items", "untrained"
_WITH_LAYERS = "mlp", "neumf"
_WITH_TABLES = "mf", "gmf", *_WITH_LAYERS
_SCRATCH_BYTES_PER_NEGATIVE = 20  # of the interactions of the user that a thread of sgd trains
_PYTHON_BYTES = 205 << 20
_TORCH_BYTES = 190 << 20
_AUTOGRAD_BYTES = 140 << 20  # of what torch imports for its optimizers
_READING_BYTES_PER_ROW = 37
_KEPT_BYTES_PER_ROW = 30  # of the rows and the split, and of what the allocators keep for later
_ORDER_ROWS, _ORDER_BYTES_PER_ROW = 1_000_000, 50  # of the sample that tells whether the order matters
_ORDERED_AT_ONCE = 1 << 20  # interactions that are put in the order of their histories
_VISITS_FOR_COPIES = 128  # interactions of an item from which HistorySGD trains two copies of the items' tables
_LANES = 16
_FLOAT_BYTES = 4
_POSITIONS_PER_CHUNK = 64
_FEATURES = 4  # of a state

_LOADED_BYTES = {
    "history_sgd": 8_000_000,
    "block_sgd": 8_000_000,
    "next_item": 18_000_000,
    "other_items": 18_000_000,
    "cpu_mlp": 28_000_000,
    "autograd": 115_000_000,
    "untrained": 5_000_000,
}
"""Memory that libraries and kernels take which are loaded while a trainer trains, and for the evaluation."""

START_SECONDS = 0.6
_END_SECONDS = 0.35
_TORCH_SECONDS, _TORCH_END_SECONDS = 2.5, 0.4
_READING_ROWS_PER_SECOND = 4e6
_SGD_NUMBERS_PER_SECOND = 0.65e9  # components of embedding vectors, on one thread
_ADAM_FLOPS_PER_SECOND = 5e10  # on one thread
_CUDA_FLOPS_PER_SECOND = 3e12
_LISTS_NUMBERS_PER_SECOND = 2e9  # components of embedding vectors, when lists are scored


@dataclass(frozen=True)
class Cost:
    """Expected memory and time of a fit on this machine; rough, since speeds are constants from another machine.

    Attributes:
        memory_bytes: most memory of the process at one time.
        seconds: from the start of the process to its end, kernels compiled.
        other_seconds: of them those of the start and the end of the process.
        repeated_seconds: of them those that another seed takes again; 0 where they were not measured.
        refit_seconds: what a training on all interactions takes besides; 0 where it was not measured.
        change_by_choice: seconds that a fit takes more, or less, if held-out items choose another loss; None where
            they choose none, or have chosen.
        fewer_seconds: seconds less that it takes at most, where the training stops as early as its patience allows.
        more_seconds: seconds more that it takes at most, where all l2 are tried and not two of them.
    """

    memory_bytes: int
    seconds: float
    other_seconds: float = 0.0
    repeated_seconds: float = 0.0
    refit_seconds: float = 0.0
    change_by_choice: float | None = None
    fewer_seconds: float = 0.0
    more_seconds: float = 0.0

    def __str__(self) -> str:
        told = [f"about {self.memory_bytes / 1e9:.1f} GB of memory and {self.seconds:,.0f} s"]
        if self.fewer_seconds:
            least = self.seconds - self.fewer_seconds
            told.append(f"{least:,.0f} s at least if the training is stopped early, as patience allows")
        if self.more_seconds:
            told.append(f"{self.seconds + self.more_seconds:,.0f} s at most if more than two l2 are tried")
        if self.change_by_choice is not None:
            told.append(f"{self.seconds + self.change_by_choice:,.0f} s if held-out items choose the other loss")
        return ", or ".join(told)

    def of_runs(self, seeds: int, *, refit: bool) -> "Cost":
        """Return the cost of fits with several seeds, or with a training on all interactions behind the fit.

        Args:
            seeds: number of fits, on data that are read once.
            refit: whether a training on all interactions follows.
        """
        refitted = self.refit_seconds if refit else 0.0  # of all epochs, and of the first one alone after an early stop
        return replace(
            self,
            seconds=round(self.seconds + (seeds - 1) * self.repeated_seconds + refitted, 2),
            fewer_seconds=round(seeds * self.fewer_seconds + (refitted if self.fewer_seconds else 0.0), 2),
            more_seconds=round(seeds * self.more_seconds, 2),
        )


def estimate(
    stages: Sequence[Stage],
    *,
    num_users: int,
    num_items: int,
    num_interactions: int,
    num_rows: int,
    num_candidates: int,
) -> Cost:
    """Return the expected cost of training ``stages`` one after the other, reading and evaluation included.

    Args:
        stages: training runs, in their order.
        num_users: U.
        num_items: I.
        num_interactions: N, training interactions.
        num_rows: rows of the source.
        num_candidates: negatives that each held-out item is ranked against.
    """
    seconds = num_rows / _READING_ROWS_PER_SECOND
    for stage in stages:
        num_negatives = min(stage.num_negatives, num_items) if stage.trainer in BY_STATES else stage.num_negatives
        seconds += stage.epochs * num_interactions * (1 + num_negatives) * _seconds_per_sample(stage)
    seconds += num_users * num_candidates * stages[-1].dim / _LISTS_NUMBERS_PER_SECOND
    seconds += _TORCH_SECONDS if uses_torch(stages) else 0.0
    others = process_seconds(stages)
    growth = growth_bytes(
        stages,
        num_users=num_users,
        num_items=num_items,
        num_interactions=num_interactions,
        num_candidates=num_candidates,
    )
    kept = num_rows * _KEPT_BYTES_PER_ROW
    memory = (
        num_rows * _READING_BYTES_PER_ROW,
        kept + min(num_rows, _ORDER_ROWS) * _ORDER_BYTES_PER_ROW,
        kept + growth,
    )
    base = _PYTHON_BYTES + (_TORCH_BYTES if uses_torch(stages) else 0)
    base += _AUTOGRAD_BYTES if any(stage.trainer == "autograd" for stage in stages) else 0
    return Cost(memory_bytes=base + max(memory), seconds=round(seconds + others, 1), other_seconds=round(others, 1))


def process_seconds(stages: Sequence[Stage]) -> float:
    """Return the seconds that a process takes to start and to end, its imports by then included."""
    return START_SECONDS + _END_SECONDS + (_TORCH_END_SECONDS if uses_torch(stages) else 0.0)


def uses_torch(stages: Sequence[Stage]) -> bool:
    """Return whether a stage is trained through torch."""
    return any(stage.trainer not in _WITHOUT_TORCH for stage in stages)


def loaded_bytes(stages: Sequence[Stage]) -> int:
    """Return the bytes of libraries and kernels that are loaded after the data are split, compiled before.

    Args:
        stages: training runs.
    """
    return max(_LOADED_BYTES.get(stage.trainer, _LOADED_BYTES["autograd"]) for stage in stages)


def growth_bytes(
    stages: Sequence[Stage],
    *,
    num_users: int,
    num_items: int,
    num_interactions: int,
    num_candidates: int,
    is_tight: bool = False,
) -> int:
    """Return the bytes that training and evaluation add at most to what the process has once the data are split.

    The trained model is there when its candidate lists are drawn and scored.

    Args:
        stages: training runs, in their order; the device of each is the CPU, or its memory does not count.
        num_users: U.
        num_items: I.
        num_interactions: N, training interactions.
        num_candidates: negatives that each held-out item is ranked against.
        is_tight: whether negatives are drawn when they are needed and not an epoch ahead.
    """
    ahead = 1 if is_tight else 2
    counts = num_users, num_items, num_interactions
    model = _FLOAT_BYTES * (num_users + num_items) * max(stage.dim + stage.mlp_dim for stage in stages)
    evaluation = num_users * num_candidates * 8 + 2 * model
    return max(evaluation, *(_training_bytes(stage, *counts, ahead) for stage in stages))


def _training_bytes(stage: Stage, num_users: int, num_items: int, num_interactions: int, num_buffers: int) -> int:
    """Return the bytes that the training of a stage takes, the copy of its last finite parameters included."""
    rows = num_users + num_items
    if stage.trainer in BY_STATES:
        numbers = _numbers_of_states(stage, num_users, num_items, num_interactions) + rows * stage.dim
        numbers += num_interactions * (2 if stage.history == "sequence" else 8)  # histories in order, and weights
        numbers += min(num_interactions, _ORDERED_AT_ONCE) * 8
        numbers += 6 * num_interactions * (stage.horizon != 1)  # those of an epoch beside those of the one before
    elif stage.trainer in _SGD_TRAINERS:
        # parameters, a copy, and the users' own vectors; those of histories twice, and copies that are trained at once
        num_copies = 2 if num_interactions >= _VISITS_FOR_COPIES * num_items else 0
        dim = -(-stage.dim // _LANES) * _LANES
        is_padded = stage.dim < dim
        numbers = ((3 + is_padded) * num_users + (4 + is_padded + 2 * num_copies) * num_items) * (dim + 1)
    elif not stage.epochs:
        numbers = 0
    else:
        # parameters, two moments and a copy; users and the order of an epoch, which may be in int64, and negatives
        numbers = rows * (stage.dim + stage.mlp_dim) * 4
        numbers += num_interactions * (num_buffers * stage.num_negatives + 1 + 2 * num_buffers)
    return _FLOAT_BYTES * numbers + num_interactions * _FLOAT_BYTES


def least_bytes(stage: Stage, *, num_users: int, num_items: int, num_interactions: int) -> int:
    """Return bytes that a stage takes in any case: parameters, moments of Adam, and negatives.

    A model that is not one of this package may have parameters of any size, which are not counted.

    Args:
        stage: a training run.
        num_users: U.
        num_items: I.
        num_interactions: N, training interactions.
    """
    rows = num_users + num_items
    numbers = rows * stage.dim if stage.model in _WITH_TABLES else 0
    if stage.trainer in _SGD_TRAINERS:
        has_history = stage.history != "none"
        longest = num_interactions // num_users if has_history else 1  # at least, of a user or of a user in a block
        scratch = _SCRATCH_BYTES_PER_NEGATIVE * stage.num_negatives * max(1, longest)
        return _FLOAT_BYTES * numbers * (2 if has_history else 1) + scratch
    if not stage.epochs:
        return 0
    if stage.trainer in BY_STATES:
        return _FLOAT_BYTES * _numbers_of_states(stage, num_users, num_items, num_interactions)
    if stage.model in _WITH_LAYERS:
        numbers += sum(a * b for a, b in pairwise([2 * stage.mlp_dim, *stage.layers, 1]))
    return _FLOAT_BYTES * (3 * numbers + num_interactions * stage.num_negatives)


def _numbers_of_states(stage: Stage, num_users: int, num_items: int, num_interactions: int) -> int:
    """Return the float32 of states, of rows with their moments, and of the buffers of the largest batch at least."""
    all_positions = max(1, num_interactions - num_users)  # each user's first interaction is not predicted
    positions = all_positions // -(-all_positions // stage.batch_size)
    negatives = min(stage.num_negatives, num_items)
    tables = num_users + 3 * (_FEATURES + 1) * num_items
    buffers = (4 + _FEATURES) * positions + (3 + -(-positions // _POSITIONS_PER_CHUNK)) * negatives
    return (tables + buffers) * stage.dim


def _seconds_per_sample(stage: Stage) -> float:
    """Return the seconds that training one sample takes: a positive or a negative."""
    if stage.trainer in BY_STATES:
        return 6 * stage.dim / _adam_flops_per_second(stage)
    if stage.trainer in _SGD_TRAINERS:
        return stage.dim / (_SGD_NUMBERS_PER_SECOND * min(2, num_threads()))
    widths = [2 * stage.mlp_dim, *stage.layers, 1]
    flops = 6 * sum(a * b for a, b in pairwise(widths)) + 40 * stage.dim
    return flops / _adam_flops_per_second(stage)


def _adam_flops_per_second(stage: Stage) -> float:
    """Return the operations that training by adam takes in a second on the device of a stage."""
    return _ADAM_FLOPS_PER_SECOND * num_threads() if stage.device == "cpu" else _CUDA_FLOPS_PER_SECOND
