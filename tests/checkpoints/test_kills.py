"""Real kills and signals; ``make nightly`` sends many more kills."""

import random
import signal
import time
from pathlib import Path

import fastncf
from tests.checkpoints import kills
from tests.checkpoints.stops import require_same
from tests.interrupts import write_ratings


def test_a_fit_that_is_killed_goes_on_and_signals_finish_the_batch(tmp_path: Path) -> None:
    write_ratings(tmp_path)
    checkpoint = tmp_path / "checkpoint"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = kills.start("blocks", tmp_path, tmp_path / "model", checkpoint, 1)
        kills.wait_for_snapshot(process, checkpoint)
        time.sleep(random.uniform(0, 0.05))
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        if number != signal.SIGKILL:
            line = errors.splitlines()[-1]  # before it, kernels may have been compiled
            assert f"{checkpoint}: " in line
            assert "of 30 epochs are done" in line
            assert line.endswith("the same fit with --resume goes on")
    kills.finish(kills.start("blocks", tmp_path, tmp_path / "model", checkpoint, 2))
    kills.finish(kills.start("blocks", tmp_path, tmp_path / "expected", None, 1))
    require_same(fastncf.load(tmp_path / "model"), fastncf.load(tmp_path / "expected"))
