"""An interrupt at any moment ends a command or a fit within seconds; ``make nightly`` runs many more of them."""

import random
from pathlib import Path

import pytest

from tests import interrupts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of ratings."""
    folder = tmp_path_factory.mktemp("interrupts")
    interrupts.write_ratings(folder)
    return folder


@pytest.mark.parametrize("name", ["mf", "mlp"])
def test_a_command_ends(name, folder):
    for _ in range(2):
        assert interrupts.interrupt_command(name, folder, random.uniform(0.5, 3)) in ("interrupted", "over")


def test_a_command_that_compiles_ends(folder, tmp_path):
    assert interrupts.interrupt_command("mf", folder, random.uniform(3, 8), tmp_path) == "interrupted"


def test_fits_in_a_process_end_and_it_can_fit_again(folder):
    result = interrupts.interrupt_fits("mf", folder, 3, random.randrange(2**31), 2)
    assert result.endswith("interrupted")
