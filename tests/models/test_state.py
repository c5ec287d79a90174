"""State of a module as it is saved."""

from io import BytesIO

import pytest
import torch
from torch import nn

from fastncf.errors import ConfigError
from fastncf.models.state import savable_state
from fastncf.persistence.arrays import encode_arrays, read_arrays


class Extra(nn.Module):
    def __init__(self, extra):
        super().__init__()
        self.inner, self.extra = nn.Linear(2, 1), extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


class Buffer(nn.Module):
    def __init__(self, tensor, persistent=True):
        super().__init__()
        self.register_buffer("adjacency", tensor, persistent=persistent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_that_share_memory_are_written_each(dtype):
    module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "c": nn.Embedding(3, 3)})
    module["b"].weight = module["a"].weight
    module["c"].weight = nn.Parameter(module["a"].weight.detach()[1:])
    module.to(dtype)
    tensors, extra = savable_state(module)
    assert extra == {}
    content = encode_arrays(tensors)
    written = read_arrays(BytesIO(content), len(content))
    assert len(written) == 5
    for name, tensor in module.state_dict().items():
        assert tensors[name].data_ptr() == tensor.data_ptr()
        assert torch.equal(torch.as_tensor(written[name]), tensor)


@pytest.mark.parametrize("value", [None, 3, "text", {"a": [1, 2.5, None]}, [True]])
def test_an_extra_state_that_json_holds(value):
    assert savable_state(nn.ModuleList([Extra(value)]))[1] == {"0._extra_state": value}


def test_an_extra_state_that_is_a_tensor():
    tensors, extra = savable_state(Extra(torch.ones(2)))
    assert extra == {}
    assert torch.equal(tensors["_extra_state"], torch.ones(2))


@pytest.mark.parametrize("value", [{1, 2}, {1: 2}, (1, 2), object(), float("nan"), b"x", [torch.ones(1)]])
def test_another_extra_state_is_refused(value):
    with pytest.raises(ConfigError, match=r"^model=Extra: .* as _extra_state, which cannot be saved; expected"):
        savable_state(Extra(value))


@pytest.mark.parametrize("kind", ["sparse", "on the device meta"])
def test_tensors_that_cannot_be_saved_are_refused(kind):
    tensor = torch.eye(3).to_sparse() if kind == "sparse" else torch.ones(3, device="meta")
    with pytest.raises(ConfigError, match=rf"^model=Buffer: adjacency is {kind}, so that it cannot be saved"):
        savable_state(Buffer(tensor))
    assert savable_state(Buffer(tensor, persistent=False)) == ({}, {})
