import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fastncf import models
from fastncf.errors import ConfigError
from fastncf.models.mf import MF
from tests.stages import make_stage

MODEL_FILE = """
from torch import nn
from fastncf.models import register

@register({name!r})
class Example(nn.Module):
    @classmethod
    def build(cls, stage, num_users, num_items, item_counts, generator):
        return cls()
"""


@pytest.fixture
def registered(monkeypatch):
    """The registry, as it was after the test."""
    monkeypatch.setattr(models, "_classes", dict(models._classes))


@pytest.fixture
def more_files(registered, monkeypatch, tmp_path):
    """A folder whose files are found as those of ``fastncf.models`` are."""
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("fastncf.models.example")]:
        del sys.modules[name]


def test_the_models_of_the_package():
    assert models.names() == ("gmf", "mf", "mlp", "neumf", "popularity")
    assert models.get("mf") is MF
    for name in models.names():
        assert models.get(name).__module__ == f"fastncf.models.{name}"


def test_nothing_heavy_is_imported_for_the_names():
    code = "import sys; from fastncf import models; print(models.names(), {'torch', 'numba'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert found.stdout.strip() == f"{models.names()} set()"


@pytest.mark.parametrize("name", ["svd", "layers", "losses", "scorers", ""])
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match=rf"model='{name}': expected one of gmf, mf, mlp, neumf, popularity"):
        models.get(name)
    with pytest.raises(ConfigError, match="expected one of gmf"):
        models.build(make_stage(model=name), 3, 4, torch.zeros(4))


def test_a_class_from_elsewhere_is_a_model_like_any_other(registered):
    @models.register("bias")
    class Bias(nn.Module):
        def __init__(self, num_items, generator):
            super().__init__()
            self.bias = nn.Parameter(torch.rand(num_items, generator=generator))

        @classmethod
        def build(cls, stage, num_users, num_items, item_counts, generator):
            return cls(num_items, generator)

        def forward(self, user_ids, item_ids):
            return self.bias[item_ids]

    assert models.names() == ("bias", "gmf", "mf", "mlp", "neumf", "popularity")
    assert models.get("bias") is Bias
    first, again, other = (models.build(make_stage(model="bias", seed=s), 3, 4, torch.zeros(4)) for s in (1, 1, 2))
    assert torch.equal(first.bias, again.bias)
    assert not torch.equal(first.bias, other.bias)


def test_a_file_is_found_by_its_name(more_files):
    (more_files / "example_one.py").write_text(MODEL_FILE.format(name="example_one"))
    assert "example_one" in models.names()
    assert "fastncf.models.example_one" not in sys.modules
    assert type(models.build(make_stage(model="example_one"), 3, 4, torch.zeros(4))).__name__ == "Example"


def test_a_file_without_its_model_is_refused(more_files):
    (more_files / "example_two.py").write_text("")
    with pytest.raises(
        ConfigError, match=r"example_two.py: expected a class decorated with @register\('example_two'\)"
    ):
        models.get("example_two")


def test_a_name_belongs_to_one_class(more_files):
    (more_files / "example_three.py").write_text(MODEL_FILE.format(name="example_three"))

    class Own(nn.Module):
        pass

    again = type("Own", (nn.Module,), {"__module__": Own.__module__, "__qualname__": Own.__qualname__})
    other = type("Other", (nn.Module,), {"__module__": Own.__module__})
    assert models.register("own")(Own) is Own
    assert models.register("own")(again) is again  # a cell of a notebook that is run twice
    assert models.get("own") is again
    for name in ("own", "mf", "example_three"):
        with pytest.raises(ConfigError, match=f"model='{name}': belongs to another class"):
            models.register(name)(other)
    assert models.get("example_three").__name__ == "Example"
