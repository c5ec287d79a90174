"""Fits in several threads at once: the bits of one after the other, and nothing of the process is changed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fastncf
from fastncf.device import default_factories, deterministic, own_modes, seeded
from tests.conftest import checkerboard

CPU = torch.device("cpu")


class Dropping(nn.Module):
    """A module that draws from torch's generator in each forward, in several ways."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.user, self.item = nn.Embedding(60, 8), nn.Embedding(40, 8)
        self.dropout = nn.Dropout(0.3)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1, generator=generator)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        product = self.dropout(self.user(user)) * nn.functional.dropout(self.item(item), 0.2, self.training)
        return product.sum(-1) + (0.01 * torch.randn(len(user)) if self.training else 0)


FITS: dict[str, dict[str, Any]] = {
    "dropout of a module": {"model": Dropping, "epochs": 3, "batch_size": 256},
    "dropout of another seed": {"model": Dropping, "epochs": 3, "batch_size": 256, "seed": 3, "deterministic": True},
    "mlp by torch": {"model": "mlp", "optimizer": "adam", "epochs": 2, "dropout": 0.2, "precision": "float32"},
    "gmf by torch": {"model": "gmf", "optimizer": "adam", "epochs": 2, "dim": 8},
    "neumf": {"model": "neumf", "epochs": 1},
    "mf": {"epochs": 3, "validation": True},
    "mf without histories": {"history": "none", "epochs": 3},
    "softmax": {"loss": "softmax", "epochs": 1},
}


def prepared(name: str) -> Callable[[], list[bytes]]:
    """Return a call that fits and returns the bytes of all that was trained and found."""
    settings = dict(FITS[name])
    if isinstance(settings.get("model"), type):
        settings["model"] = settings["model"]()  # draws from torch's generator, as constructors of modules do
    frame = checkerboard()

    def fit() -> list[bytes]:
        rec = fastncf.fit(frame, **settings, num_candidates=10)
        answer = rec.recommend([0, 1, 2], k=5)
        arrays = [tensor.detach().numpy() for tensor in rec.model.state_dict().values()]
        return [array.tobytes() for array in arrays] + [repr((rec.metrics, answer.rows())).encode()]

    return fit


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Return what calls return that begin at the same time, each in a thread of its own."""
    results: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(number: int) -> None:
        barrier.wait(timeout=60)
        try:
            results[number] = calls[number]()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=[number]) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Check that the block leaves the state of the process that fits might change as it was."""

    def state() -> list[Any]:
        numbers = np.random.get_state()
        return [
            torch.get_rng_state().tolist(),
            str(numbers[0]),
            numbers[1].tolist(),
            numbers[2:],
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.get_deterministic_debug_mode(),
            torch.backends.mkldnn.matmul.fp32_precision,
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            np.geterr(),
        ]

    before = state()
    yield
    assert state() == before


@pytest.fixture(scope="module")
def alone() -> dict[str, list[bytes]]:
    """Results of each fit by itself."""
    return {name: prepared(name)() for name in FITS}


@pytest.mark.parametrize("names", [("dropout of a module",) * 4, tuple(FITS), tuple(FITS)[:3] * 2])
def test_fits_at_once_have_the_bits_of_fits_alone(names, alone):
    calls = [prepared(name) for name in names]
    with unchanged_process():
        found = at_once(calls)
    for name, result in zip(names, found, strict=True):
        assert result == alone[name], name


def test_settings_of_the_process_do_not_matter_and_are_kept(alone):
    names = ("mlp by torch", "gmf by torch") * 2
    torch.set_default_dtype(torch.float64)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with unchanged_process():
            found = at_once([prepared(name) for name in names])
    finally:
        torch.set_default_dtype(torch.float32)
        torch.backends.mkldnn.matmul.fp32_precision = "none"
    for name, result in zip(names, found, strict=True):
        assert result == alone[name], name


def test_blocks_of_one_thread_wait_for_those_of_another():
    expected = [torch.rand(20, generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(6)]

    def draw(seed: int) -> list[float]:
        with seeded(CPU, seed):
            return [(torch.rand(1).item(), time.sleep(0))[0] for _ in range(20)]  # others may run between two draws

    with unchanged_process():
        for _ in range(20):
            assert at_once([lambda seed=seed: draw(seed) for seed in range(6)]) == expected


def test_a_shared_setting_lasts_as_long_as_a_block_needs_it():
    torch.set_default_dtype(torch.float64)
    try:
        first, second = default_factories(), own_modes(gradients=True)
        other = default_factories()
        first.__enter__()
        assert torch.get_default_dtype() == torch.float32
        entered, left = threading.Event(), threading.Event()

        def work() -> None:
            with other:
                entered.set()
                assert left.wait(30)
                dtypes.append(torch.empty(0).dtype)

        dtypes: list[torch.dtype] = []
        thread = threading.Thread(target=work)
        thread.start()
        assert entered.wait(30)
        first.__exit__(None, None, None)
        left.set()
        thread.join()
        assert dtypes == [torch.float32]
        assert torch.get_default_dtype() == torch.float64
        with second:
            assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_deterministic_operations_are_not_asked_of_another_thread():
    def found(wanted: bool) -> set[bool]:
        modes = set()
        for _ in range(50):
            with deterministic(wanted):
                modes.add(torch.are_deterministic_algorithms_enabled())
        return modes

    assert at_once([lambda: found(True), lambda: found(False), lambda: found(True)]) == [{True}, {False}, {True}]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", ["mf", "neumf", "dropout of a module"])
def test_one_model_answers_several_threads_at_once(name):
    settings = dict(FITS[name]) | {"epochs": 1}
    if isinstance(settings.get("model"), type):
        settings["model"] = settings["model"]()
    rec = fastncf.fit(checkerboard(), **settings)
    parts = [list(range(first, 60, 4)) for first in range(4)]
    expected = [rec.recommend(part, k=7).rows() for part in parts]
    assert at_once([lambda part=part: rec.recommend(part, k=7).rows() for part in parts * 3]) == expected * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_does_not_wait_for_a_block_of_its_parent():
    entered, left = threading.Event(), threading.Event()

    def work() -> None:
        with seeded(CPU, 1):
            entered.set()
            assert left.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(30)
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits
        with seeded(CPU, 2), own_modes(gradients=True):
            pass
        os._exit(0)
    _, status = os.waitpid(child, 0)
    left.set()
    thread.join()
    assert status == 0
