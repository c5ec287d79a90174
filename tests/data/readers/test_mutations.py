"""Mutated text files and long fields, each in a process of its own; ``make nightly`` tries more files."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests import campaigns
from tests.data.readers.campaign import ENVIRONMENT


def test_mutated_texts_are_refused_or_read_as_by_a_plain_reader():
    """A process of its own, so that a file at which the reading hangs ends the test."""
    command = [sys.executable, "-m", "tests.data.readers.mutations", "0", "400"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = re.fullmatch(r"400 texts: (\d+) refused, (\d+) read\n", run.stdout)
    assert found
    assert min(map(int, found.groups())) > 100


def test_the_time_of_long_fields_does_not_grow_with_their_square():
    """Patterns that go back take a second for some 4,000 characters, hence minutes for each field of this length."""
    command = [sys.executable, "-m", "tests.data.readers.long_fields", "50000", "5"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.fullmatch(r"\d+ fields\n", run.stdout)


def test_mutated_files_of_all_kinds_are_refused_or_accounted_for():
    tried: Counter[str] = Counter()
    for failure in campaigns.failures("tests.data.readers.campaign", 0, 250, tried, ENVIRONMENT):
        pytest.fail(failure)
    for kind in ("text", "json", "parquet", "feather", "several", "gzip", "zip", "bomb"):
        assert any(kind in name for name in tried), kind
    assert min(sum(count for name, count in tried.items() if name.endswith(end)) for end in ("read", "refused")) > 40
    assert tried["peak"] < campaigns.MOST_MEMORY


def test_a_crash_and_an_error_are_noticed():
    tried: Counter[str] = Counter()
    found = list(campaigns.failures("tests.data.readers.test_mutations", 0, 5, tried))
    assert [text.split("\n")[-1] for text in found] == [
        f"  python -m tests.data.readers.test_mutations {seed} 1" for seed in (1, 3)
    ]
    assert "ended with -9: a crash or a hang" in found[0]
    assert "ValueError: three" in found[1]
    assert tried["sound"] == 3


def _try(seed: int, folder: Path) -> str:
    if seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 3:
        raise ValueError("three")
    return "sound"


if __name__ == "__main__":
    sys.exit(campaigns.main("tests.data.readers.test_mutations", _try))
