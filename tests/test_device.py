"""Random states, deterministic operations and memory of a device."""

import re

import pytest
import torch

from fastncf.device import chunk_bytes, deterministic, find_device, seeded, translate_out_of_memory
from fastncf.errors import DeviceError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("CUDA out of memory. Tried to allocate 20 MiB. GPU 0 has a total capacity of", "Tried to allocate 20 MiB"),
        ("no room", "no room"),
    ],
)
def test_memory_that_runs_out_elsewhere_is_said(message, reason):
    expected = re.escape(f"cpu ran out of memory ({reason}); expected: smaller")
    with pytest.raises(DeviceError, match=expected), translate_out_of_memory(CPU):
        raise torch.OutOfMemoryError(message)


def test_random_state_is_the_seeds_inside_and_untouched_outside():
    state = torch.random.get_rng_state()
    with seeded(CPU, 5):
        first = torch.rand(3)
    with seeded(CPU, 5):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_deterministic_operations_are_asked_for_inside_alone():
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("free", "expected"), [(1 << 20, 1 << 19), (1 << 40, 512 << 20)])
def test_chunks_take_at_most_half_of_the_free_memory(free, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 40))
    assert chunk_bytes(torch.device("cuda")) == expected
    assert chunk_bytes(CPU) == 16 << 20


@pytest.mark.parametrize("name", ["gpu", "GPU:0", "nvidia", "cuda:x", ""])
def test_a_name_that_is_no_device_is_answered_by_those_that_are(name):
    with pytest.raises(DeviceError, match="unknown to torch; expected: 'cpu', 'cuda'") as error:
        find_device(name)
    assert len(str(error.value)) < 150
