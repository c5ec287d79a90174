"""Simulated faults: what is read is the old content, the new one, or a sentence; ``make nightly`` tries more seeds."""

from collections import Counter

import pytest

from fastncf import files
from fastncf.persistence import manifest
from tests.persistence.simulation import SUBJECTS, failures


def test_whatever_fails_the_old_or_the_new_content_is_read_or_a_sentence():
    tried: Counter[str] = Counter()
    for failure in failures(0, 300, tried):
        pytest.fail(failure)
    assert min(tried[step] for step in ("write", "race", "read", "flip", "loss")) > 20


def _move_in_two_steps(file: files.NewFile, target) -> None:
    files.remove(target)
    files.os.replace(file.path, target)


SABOTAGE = {
    "files are not synchronised": (files, "_sync", lambda descriptor: None),
    "folders are not synchronised": (files, "sync_folder", lambda folder: None),
    "the older file goes before the new one comes": (files.NewFile, "move_to", _move_in_two_steps),
    "checksums are not looked at": (manifest, "_refuse", lambda *args: {}),
    "drafts that are in use are removed": (files, "remove_unused", lambda path: files.remove(path) is None),
    "nothing is removed": (files, "remove", lambda path: None),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_the_simulation_notices_a_file_layer_that_is_wrong(monkeypatch, name):
    monkeypatch.setattr(*SABOTAGE[name])
    failure = next(failures(1000, 400, Counter()), "")
    assert "python -m tests.persistence.simulation 1" in failure
    assert failure.split(":")[0] in SUBJECTS
