"""Check how processes are timed."""

import subprocess

import pytest

from benchmarks.cli_startup import seconds_of


def test_a_process_is_timed_from_its_start_to_its_end(tmp_path):
    assert seconds_of(["-c", "import time; time.sleep(0.2)"], tmp_path) > 0.2


def test_a_process_that_fails_is_no_result(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        seconds_of(["-c", "raise SystemExit(3)"], tmp_path)


def test_a_fit_that_has_learned_nothing_is_no_result(tmp_path):
    code = 'print(\'{"metrics": {"hr@10": 0.1}}\')'
    with pytest.raises(AssertionError, match="learned nothing"):
        seconds_of(["-c", code, "--json"], tmp_path)
