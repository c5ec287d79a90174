"""Results are those that were recorded, bit for bit; see :mod:`tests.golden`."""

import json

import pytest

from tests.golden.cases import CASES, compute
from tests.golden.fingerprint import why_not
from tests.golden.record import FILE

RECORDED = json.loads(FILE.read_text())


@pytest.mark.parametrize("name", sorted(CASES))
def test_result_is_the_recorded_one(name):
    reason = why_not(CASES[name].needs, RECORDED["fingerprint"])
    if reason is not None:
        pytest.skip(reason)
    assert compute(name) == RECORDED["cases"].get(name)


def test_every_case_is_recorded_and_every_record_has_a_case():
    assert sorted(CASES) == sorted(RECORDED["cases"])
