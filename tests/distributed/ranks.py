"""Program of one rank: trains with each trainer and writes the states to a file."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # keeps the group that exists at its import alive for good

from fastncf import distributed, models
from fastncf.errors import DistributedError
from fastncf.trainers.autograd import AutogradTrainer
from fastncf.trainers.next_item import NextItem
from fastncf.trainers.parallel_autograd import ParallelAutograd
from fastncf.trainers.parallel_next_item import ParallelNextItem
from tests.stages import make_stage
from tests.trainers.test_block_sgd import random_split
from tests.trainers.test_next_item import batches_of, make, negatives_of

EPOCHS = 2
TRAINERS = "next_item", "autograd", "autograd, many items"


def next_item_states(is_alone: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield losses and states after epochs with histories longer than a window and dropout."""
    maker = NextItem if is_alone else ParallelNextItem
    trainer = make(random_split(3), batch_size=200, dim=20, dropout=0.2, num_negatives=30, maker=maker)
    ranks = distributed.current()
    before = 0 if ranks is None else ranks.num_bytes
    losses = [trainer.epoch(number) for number in range(EPOCHS)]
    sent = least_bytes(trainer) if ranks is None else ranks.num_bytes - before
    yield "losses", np.array(losses)
    yield "users", trainer.model.user_vectors
    yield "bytes", np.array(sent)
    yield from trainer.state_dict().items()


def least_bytes(trainer: NextItem) -> int:
    """Return the bytes of the gradients that batches have, and of the sums of losses."""
    windows, dim, features = trainer.windows, trainer.stage.dim, len(trainer.is_mean)
    numbers = 0
    for epoch in range(EPOCHS):
        for number, batch in enumerate(batches_of(trainer, epoch)):
            tokens, scored = set(), set(negatives_of(trainer, epoch, number)[0])
            for w in batch:
                start, context, length = windows.starts[w], windows.contexts[w], windows.lengths[w]
                items = windows.items[start : start + context + length + 1].tolist()
                tokens.update(items[:-1])
                scored.update(items[context + 1 :])
            numbers += features * dim * (2 + len(tokens)) + (dim + 1) * len(scored)
    calls = EPOCHS * -(-trainer.num_batches // 32)
    return 4 * numbers + 8 * calls


def autograd_states(is_alone: bool, num_items: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield losses and states after epochs of a neumf with l2."""
    stage = make_stage(model="neumf", optimizer="adam", dim=6, mlp_dim=5, l2=0.01, batch_size=100, epochs=EPOCHS)
    split = random_split(4, num_items=num_items)
    model = models.build(stage, split.num_users, split.num_items, split.item_counts())
    if (ranks := distributed.current()) is not None and ranks.rank:  # those of the first rank count
        torch.nn.init.zeros_(model.get_parameter("gmf_item_embedding.weight"))
    with (AutogradTrainer if is_alone else ParallelAutograd)(model, split, stage) as trainer:
        losses = [trainer.epoch(number) for number in range(EPOCHS)]
        yield "losses", torch.stack(losses).numpy()
        yield from ((name, np.array(value)) for name, value in trainer.state_dict().items())


def require_own_errors(ranks: distributed.Ranks) -> None:
    """Check that an operation of wrong arguments does not say that another rank has ended."""
    try:
        ranks.share(np.zeros(2), ranks.size)
    except DistributedError as error:
        raise AssertionError from error
    except (RuntimeError, ValueError):
        return
    raise AssertionError("no error")


def gloo_threads() -> list[str]:
    """Return the names of the threads of gloo that run; none where the system does not tell."""
    return [name for path in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := path.read_text())]


def main(path: str) -> None:
    """Train and write ``path`` + ``.npz``."""
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{os.environ['STORE']}", rank=rank, world_size=size)
    with distributed.together() as ranks:
        is_alone = ranks is None
        assert is_alone == (size == 1)
        if ranks is not None:
            require_own_errors(ranks)
        states = next_item_states(is_alone), autograd_states(is_alone, 60), autograd_states(is_alone, 3000)
        named = {
            f"{trainer}: {name}": array
            for trainer, arrays in zip(TRAINERS, states, strict=True)
            for name, array in arrays
        }
        np.savez(path, **named)
    if size > 1:
        dist.destroy_process_group()
        assert not gloo_threads()  # one that still runs when the process ends may abort it


if __name__ == "__main__":
    main(sys.argv[1])
