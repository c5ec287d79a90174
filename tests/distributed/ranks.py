"""Program of ranks, one, two and then four: each trains with each trainer and writes the states to a file.

The ranks are forked from a process that has imported everything, which takes longer than most of what they do.
"""

import errno
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there is a group, as the command line does

from fastncf import distributed, models
from fastncf.device import find_device
from fastncf.errors import DeviceError, DistributedError, InsufficientMemoryError
from fastncf.kernels.cpu.next_item import CHUNK
from fastncf.models.layers import make_embedding
from fastncf.models.mf import MF
from fastncf.trainers.autograd import AutogradTrainer
from fastncf.trainers.cpu_mlp import CPUMLPTrainer
from fastncf.trainers.cuda_next_item import CUDANextItem
from fastncf.trainers.cuda_other_items import CUDAOtherItems
from fastncf.trainers.loop import FiniteParameters
from fastncf.trainers.next_item import NextItem
from fastncf.trainers.other_items import OtherItems
from fastncf.trainers.parallel_autograd import ParallelAutograd
from fastncf.trainers.parallel_cpu_mlp import ParallelCPUMLP
from fastncf.trainers.parallel_cuda_next_item import ParallelCUDANextItem, ParallelCUDAOtherItems
from fastncf.trainers.parallel_next_item import ParallelNextItem, ParallelOtherItems
from fastncf.trainers.sharded_autograd import ShardedAutograd
from tests.stages import make_stage
from tests.trainers.test_block_sgd import random_split
from tests.trainers.test_history_sgd import random_order
from tests.trainers.test_next_item import batches_of, make, negatives_of, softmax_stage

SIZES = 1, 2, 4
"""Numbers of ranks."""

EPOCHS = 2
MAKERS = {"next_item": (NextItem, ParallelNextItem), "other_items": (OtherItems, ParallelOtherItems)}
TRITON_MAKERS = {
    "cuda_next_item": (CUDANextItem, ParallelCUDANextItem),
    "cuda_other_items": (CUDAOtherItems, ParallelCUDAOtherItems),
}
SHARDED = "gmf", "mf", "mlp", "neumf"
TRAINERS = (
    *MAKERS,
    *("mlp", "neumf", "autograd", "autograd, many items"),
    *(f"autograd, sharded {name}" for name in SHARDED),
    *TRITON_MAKERS,
)


def trained_by(size: int) -> tuple[str, ...]:
    """Return the trainers that a number of ranks trains by."""
    return TRAINERS if size < 4 else TRAINERS[: -len(TRITON_MAKERS)]


def states_of_histories(name: str, is_alone: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield losses and states after epochs with histories longer than a window and dropout."""
    changes = {"batch_size": 200, "dim": 20, "dropout": 0.2, "num_negatives": 30, "epochs": EPOCHS}
    history = MAKERS[name][0].history
    trainer = make(random_split(3), maker=MAKERS[name][not is_alone], history=history, **changes)
    ranks = distributed.current()
    before = 0 if ranks is None else ranks.num_bytes
    losses = []
    for number in range(EPOCHS):
        losses.append(trainer.epoch(number))
        if ranks is not None and number == 0:  # fixed states, which other_items ends with, are read and not sent
            assert sum(ranks.gather(ranks.num_bytes - before)) == least_bytes(trainer, ranks.size)
            require_share(trainer, ranks)
    yield "losses", np.array(losses)
    yield "users", trainer.model.user_vectors
    state = trainer.state_dict()
    yield from state.items()
    trainer.load_state_dict(state)
    assert all(np.array_equal(array, state[name]) for name, array in trainer.state_dict().items())


def require_share(trainer: NextItem, ranks: distributed.Ranks) -> None:
    """Check that a rank has the rows of its share of the items, with their moments, and no more."""
    share = -(-trainer.num_items // ranks.size)
    vectors = trainer._num_vectors * trainer.width, trainer.width + 8
    strides = [-(-(3 * width + 8) // 16) * 16 for width in vectors]
    assert sum(table.rows.nbytes for table in (trainer._inputs, trainer._outputs)) <= 4 * share * sum(strides)


def least_bytes(trainer: NextItem, size: int) -> int:
    """Return the bytes that ranks have to send in the first epoch.

    Vectors of items that a rank's positions use and another rank owns, there and back as gradients; gradients of gains
    and decays; sums of losses.
    """
    windows, dim, features = trainer.windows, trainer.stage.dim, len(trainer.is_mean)
    lookahead = int(trainer.history == "sequence")
    numbers = 0
    for number, batch in enumerate(batches_of(trainer, 0)):
        positions = [(w, place) for w in batch for place in range(windows.lengths[w])]
        negatives = negatives_of(trainer, 0, number)[0]
        chunks = -(-len(positions) // CHUNK)
        for rank in range(size):
            own = positions[rank * chunks // size * CHUNK : (rank + 1) * chunks // size * CHUNK]
            tokens, scored = set(), set(negatives if own else ())
            for w, place in own:
                start, context, length = windows.starts[w], windows.contexts[w], windows.lengths[w]
                tokens.update(windows.items[start : start + context + length].tolist())
                scored.add(int(windows.items[start + context + place + lookahead]))
            widths = (tokens, max(1, features) * dim), (scored, dim + 1)
            numbers += 2 * sum(width * sum(item % size != rank for item in items) for items, width in widths)
            numbers += 2 * features * dim
    return 4 * numbers + 8 * size * -(-trainer.num_batches // 32)


def states_by_triton(name: str, is_alone: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield losses and states after epochs by the kernels for CUDA, here by Triton's interpreter without one."""
    split = random_split(3, num_users=5, num_items=23, max_degree=9)
    makers = TRITON_MAKERS[name]
    changes = {"device": "cpu", "dim": 21, "dropout": 0.4, "batch_size": 15, "epochs": EPOCHS}
    stage = softmax_stage(history=makers[0].history, **changes)
    with distributed.alone():
        model = MF(split.num_users, split.num_items, stage.dim)
    windows = (mock.patch(f"fastncf.trainers.{module}.WINDOW", 5) for module in ("next_item", "cuda_next_item"))
    with ExitStack() as stack:
        for patch in (*windows, mock.patch("fastncf.trainers.parallel_cuda_next_item.WINDOW", 5)):
            stack.enter_context(patch)
        trainer = makers[not is_alone](model, split, stage, random_order(split, 0))
        yield "losses", np.array([float(trainer.epoch(number)) for number in range(EPOCHS)])
        state = trainer.state_dict()
        yield from ((name, np.array(value, copy=True)) for name, value in state.items())
        yield from ((f"model {name}", np.array(value, copy=True)) for name, value in model.state_dict().items())
        kept = trainer.kept_state()
        trainer.epoch(EPOCHS - 1)
        trainer.load_state_dict(kept)
        assert all(torch.equal(tensor, kept[name]) for name, tensor in trainer.state_dict().items())


def states_of_layers(model: str, is_alone: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield losses and states after epochs of layers with l2, in a module that the ranks have drawn differently.

    Batches are of several microbatches, each with shards or a part of one.
    """
    sizes = {"dim": 6, "mlp_dim": 5, "layers": (9, 4), "dropout": 0.2}
    stage = make_stage(model=model, optimizer="adam", l2=0.01, batch_size=1500, epochs=EPOCHS, **sizes)
    split = random_split(5, num_items=90)
    with distributed.alone():  # so that the ranks do not share the memory of the tables
        module = models.build(stage, split.num_users, split.num_items, split.item_counts())
    ranks = distributed.current()
    if ranks is not None and ranks.rank:
        torch.nn.init.zeros_(module.get_parameter("output.weight"))
    with (
        mock.patch("fastncf.trainers.cpu_mlp._SHARED_BATCH", 1),
        mock.patch("fastncf.trainers.cpu_mlp._MICROBATCH_SAMPLES", 160 if model == "mlp" else 400),
        (CPUMLPTrainer if is_alone else ParallelCPUMLP)(module, split, stage) as trainer,
    ):
        yield "losses", np.array([trainer.epoch(number) for number in range(EPOCHS - 1)])
        before = 0 if ranks is None else ranks.num_bytes
        yield "last loss", np.array(trainer.epoch(EPOCHS - 1))
        if ranks is not None:
            assert ranks.num_bytes - before == bytes_of_sharded_tables(trainer, module, ranks)
        state = trainer.state_dict()
        yield from ((name, np.array(value, copy=True)) for name, value in state.items())
        yield from ((f"module {name}", value.numpy()) for name, value in module.state_dict().items())
        trainer.load_state_dict(state)
        assert all(torch.equal(torch.as_tensor(one), state[name]) for name, one in trainer.state_dict().items())


def autograd_states(is_alone: bool, num_items: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield losses and states after epochs of a neumf with l2."""
    stage = make_stage(model="neumf", optimizer="adam", dim=6, mlp_dim=5, l2=0.01, batch_size=100, epochs=EPOCHS)
    split = random_split(4, num_items=num_items)
    with distributed.alone():
        model = models.build(stage, split.num_users, split.num_items, split.item_counts())
    if (ranks := distributed.current()) is not None and ranks.rank:  # those of the first rank count
        torch.nn.init.zeros_(model.get_parameter("gmf_item_embedding.weight"))
    with (AutogradTrainer if is_alone else ParallelAutograd)(model, split, stage) as trainer:
        losses = [trainer.epoch(number) for number in range(EPOCHS)]
        yield "losses", torch.stack(losses).numpy()
        yield from ((name, np.array(value, copy=True)) for name, value in trainer.state_dict().items())


def sharded_states(model: str, is_alone: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield losses and states after epochs by autograd of a model whose tables are sharded, with l2."""
    stage = make_stage(model=model, optimizer="adam", dim=6, mlp_dim=5, l2=0.01, batch_size=250, epochs=EPOCHS)
    split = random_split(6, num_items=70)
    with distributed.alone():
        module = models.build(stage, split.num_users, split.num_items, split.item_counts())
    ranks = distributed.current()
    if ranks is not None and ranks.rank:  # those of the first rank count
        torch.nn.init.zeros_(module.get_parameter(module.item_tables[0]))
    with (AutogradTrainer if is_alone else ShardedAutograd)(module, split, stage) as trainer:
        losses = []
        for number in range(EPOCHS):
            before = 0 if ranks is None else ranks.num_bytes
            losses.append(float(trainer.epoch(number)))
            if ranks is not None:
                assert ranks.num_bytes - before == bytes_of_sharded_tables(trainer, module, ranks)
        yield "losses", np.array(losses)
        if ranks is not None:
            require_share_of_tables(trainer, split.num_items, ranks)
        state = trainer.state_dict()
        yield from ((name, np.array(value, copy=True)) for name, value in state.items())
        yield from ((f"module {name}", np.array(value, copy=True)) for name, value in module.state_dict().items())
        kept = trainer.kept_state()
        trainer.epoch(EPOCHS - 1)
        trainer.load_state_dict(kept)
        assert all(torch.equal(tensor, kept[name]) for name, tensor in trainer.state_dict().items())


def bytes_of_sharded_tables(
    trainer: ShardedAutograd | ParallelCPUMLP, module: torch.nn.Module, ranks: distributed.Ranks
) -> int:
    """Return the least bytes that a rank has to send in the epoch that it has trained, with the ids of the rows.

    Rows of its items that others use, and gradients of others' rows that it uses; gradients of layers; sums of losses.
    """
    loader = trainer.loader
    width = sum(module.get_parameter(name)[0].numel() for name in module.item_tables)
    numbers = 0
    for indices in loader.batch_indices():
        batch = loader.gather(trainer._users.own(indices))
        items = set(batch.positive.tolist()) | set(batch.negatives.reshape(-1).tolist())
        used = ranks.gather(items)
        others = [one for rank, one in enumerate(used) if rank != ranks.rank]
        numbers += width * sum(item % ranks.size == ranks.rank for one in others for item in one)
        numbers += (width + 1) * sum(item % ranks.size != ranks.rank for item in items)  # and its id
        numbers += ranks.size - 1  # how many ids
    tables = {*module.user_tables, *module.item_tables}
    layers = sum(parameter.numel() for name, parameter in module.named_parameters() if name not in tables)
    if isinstance(trainer, ParallelCPUMLP) and ranks.size > 2:  # each adds up a part
        layers = -(-layers // ranks.size) * ranks.size
    return 4 * numbers + 4 * layers * loader.batches + 8


def require_share_of_tables(trainer: ShardedAutograd, num_items: int, ranks: distributed.Ranks) -> None:
    """Check that parameters and moments of a rank have its share of the rows, and no other."""
    share = len(range(ranks.rank, num_items, ranks.size))
    for name, parameter in trainer._parameters():
        if name in trainer._whole.item_tables:
            assert len(parameter) == share
            assert len(trainer._moments(parameter)["exp_avg"]) == share
    for name in trainer._whole.user_tables:
        lengths = ranks.gather(len(dict(trainer._parameters())[name]))
        assert sum(lengths) == len(trainer._whole.get_parameter(name))
        assert max(lengths) < sum(lengths)


def require_own_errors(ranks: distributed.Ranks) -> None:
    """Check that an operation of wrong arguments does not say that another rank has ended."""
    try:
        ranks.share(np.zeros(2), ranks.size)
    except DistributedError as error:
        raise AssertionError from error
    except (RuntimeError, ValueError):
        return
    raise AssertionError("no error")


def require_room(ranks: distributed.Ranks) -> None:
    """Check that all ranks have the error where one of them has no room for the file that others read."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    is_full = mock.patch("os.posix_fallocate", full) if ranks.rank == 0 else nullcontext()
    with is_full, pytest.raises(InsufficientMemoryError, match="TMPDIR"):
        ranks.once(lambda: np.zeros(3))
    assert ranks.once(lambda: np.arange(3)).tolist() == [0, 1, 2]


def require_copies(ranks: distributed.Ranks) -> None:
    """Check that the parameters of a finite epoch come back, of a dtype that NumPy lacks and of no dimensions too."""
    module = torch.nn.Linear(3, 2, dtype=torch.bfloat16)
    module.register_buffer("steps", torch.tensor(7))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    finite = FiniteParameters(module)
    finite.keep()
    ranks.wait()
    for tensor in module.state_dict().values():
        tensor.zero_()
    finite.restore()
    if ranks.rank == 0:  # whose copy all share
        assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert module.get_buffer("steps") == 7
    ranks.wait()


def require_embeddings(ranks: distributed.Ranks) -> None:
    """Check that an embedding that all ranks make at the same time, in one memory, is that of one process."""
    for seed in range(3):
        ranks.wait()
        ours = make_embedding(100_000, 16, torch.Generator().manual_seed(seed), 0.1)
        ranks.wait()
        with distributed.alone():
            expected = make_embedding(100_000, 16, torch.Generator().manual_seed(seed), 0.1)
        assert torch.equal(ours.weight, expected.weight)


def require_any_tensor(ranks: distributed.Ranks) -> None:
    """Check that tensors of all strides and dtypes are shared: columns, numbers, no rows, and what gloo lacks."""
    for zeros in (
        lambda: torch.zeros(3, 4)[:, 1:3],
        lambda: torch.zeros(4, 3).T,
        lambda: torch.tensor(False),
        lambda: torch.zeros(0, 5),
        lambda: torch.zeros(2, dtype=torch.int16),
        lambda: torch.zeros(2, dtype=torch.complex64),
        lambda: torch.zeros(2, dtype=torch.bfloat16),
    ):
        tensor = zeros()
        if ranks.rank == ranks.size - 1:
            tensor.fill_(1)
        ranks.share_tensor(tensor, ranks.size - 1)
        assert bool((tensor == 1).all())


def require_cpu() -> None:
    """Check that ranks that exchange by gloo train on CPUs, whatever GPUs there are."""
    with mock.patch("torch.cuda.is_available", return_value=True):
        assert find_device("auto").type == "cpu"
        with pytest.raises(DeviceError, match="gloo"):
            find_device("cuda")


def gloo_threads() -> list[str]:
    """Return the names of the threads of gloo that run; none where the system does not tell."""
    return [name for path in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := path.read_text())]


def run_rank(folder: Path, rank: int, size: int) -> None:
    """Train and write the file of a rank to the folder of a number of ranks."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=size)
    machine = str(rank % 2) if size == 4 else "0"
    with mock.patch("fastncf.network.kernel_id", return_value=machine), distributed.together() as ranks:
        is_alone = ranks is None
        assert is_alone == (size == 1)
        if ranks is not None:
            assert ranks.local_size == 2  # of four ranks, every other one is on another machine
            require_own_errors(ranks)
            require_any_tensor(ranks)
            require_cpu()
            require_room(ranks)
            require_copies(ranks)
            require_embeddings(ranks)
        histories = (states_of_histories(name, is_alone) for name in MAKERS)
        layers = (states_of_layers(name, is_alone) for name in ("mlp", "neumf"))
        # the interpreter takes its time, and four processes of two cores four times as long
        by_triton = [states_by_triton(name, is_alone) for name in TRITON_MAKERS if size < 4]
        sharded = (sharded_states(name, is_alone) for name in SHARDED)
        states = (
            *histories,
            *layers,
            autograd_states(is_alone, 60),
            autograd_states(is_alone, 3000),
            *sharded,
            *by_triton,
        )
        named = {
            f"{trainer}: {name}": array
            for trainer, arrays in zip(trained_by(size), states, strict=True)
            for name, array in arrays
        }
        np.savez(folder / str(rank), **named)
    if size > 1:
        dist.destroy_process_group()
        assert not gloo_threads()  # one that still runs when the process ends may abort it


def main(folder: Path) -> None:
    """Run one, two and four ranks, and end with exit code 1 if one of them fails."""
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # whose first use imports hundreds of modules
    context = multiprocessing.get_context("fork")
    for size in SIZES:
        (folder / str(size)).mkdir()
        ranks = [context.Process(target=run_rank, args=(folder / str(size), rank, size)) for rank in range(size)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
