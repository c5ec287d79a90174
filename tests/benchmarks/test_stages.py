"""Check that a stage of a benchmark is the stage of a fit."""

import fastncf
from benchmarks.stages import stage_of
from tests.conftest import checkerboard


def test_a_stage_has_the_settings_that_a_fit_trains_by():
    settings = {"model": "mlp", "optimizer": "adam", "epochs": 1, "device": "cpu"}
    rec = fastncf.fit(checkerboard(), **settings)
    assert stage_of(fastncf.Config(**settings), rec.split) == rec.plan.final
