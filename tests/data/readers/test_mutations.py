"""Mutated text files and long fields, each in a process of its own; ``make nightly`` tries more files."""

import re
import subprocess
import sys


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
