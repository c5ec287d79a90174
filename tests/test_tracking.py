"""The examples of docs/tracking.md run with stand-ins for the trackers, which refuse what MLflow refuses."""

import re
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import pytest

import fastncf
from tests.conftest import checkerboard

PAGE = (Path(__file__).parents[1] / "docs" / "tracking.md").read_text(encoding="utf-8")
MLFLOW_NAME = re.compile(r"[\w\-. /]+", re.ASCII)


class Tracker:
    """Keeps what is logged, under the names of the calls of all three trackers."""

    def __init__(self):
        self.logged, self.params, self.folders = [], {}, []
        self.summary = types.SimpleNamespace(update=self.log_metrics)

    def log_metric(self, name, value, step=None):
        assert MLFLOW_NAME.fullmatch(name)
        self.logged.append((step, name, float(value)))

    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            self.log_metric(name, value, step)

    def add_scalar(self, name, value, step):
        self.log_metric(name, value, step)

    def log(self, values, step):
        self.logged += [(step, name, float(value)) for name, value in values.items()]

    def log_params(self, params):
        self.params |= params

    def log_artifacts(self, folder, name):
        assert fastncf.load(folder).metrics
        self.folders.append(name)

    def start_run(self):
        return nullcontext(self)

    def init(self, project, config):
        self.params |= config
        return nullcontext(self)


@pytest.mark.parametrize("title", ["MLflow", "Weights & Biases", "TensorBoard"])
def test_the_example_of_a_tracker_logs_each_epoch_and_the_metrics(tmp_path, monkeypatch, title):
    monkeypatch.chdir(tmp_path)
    checkerboard().write_csv("ratings.csv")
    tracker = Tracker()
    monkeypatch.setitem(sys.modules, "mlflow", tracker)
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    writer = types.SimpleNamespace(SummaryWriter=lambda folder: nullcontext(tracker))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writer)
    (code,) = re.findall(rf"^## {title}\n.*?```python\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE)
    names = {}
    exec(code, names)
    losses = [value for step, name, value in tracker.logged if name == "loss" and step is not None]
    assert losses == [entry["loss"] for entry in names["rec"].training_log]
    assert len(losses) == 3
    assert any(name.startswith("ndcg") and step == 3 for step, name, _ in tracker.logged)


def test_safe_names_are_those_that_mlflow_takes():
    metrics = {"hr@10": 0.5, "full/ndcg@10": 0.25, "mrr": 1.0, "my metric (%)": 2.0, "caf\u00e9": 3.0}
    safe = fastncf.safe_names(metrics)
    assert list(safe)[:3] == ["hr_at_10", "full/ndcg_at_10", "mrr"]
    assert list(safe.values()) == list(metrics.values())
    assert all(MLFLOW_NAME.fullmatch(name) for name in safe)
