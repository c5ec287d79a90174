"""Forked children of a process that has used everything: they serve, or say in one sentence what they cannot do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastncf
from fastncf import processes
from fastncf.errors import ForkError

FOLDER = Path(fastncf.__file__).parents[1]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

PARENT = """
import faulthandler, json, os, signal, sys, threading
import numpy as np, polars as pl, torch
import fastncf

torch.set_num_threads(2)
folder = sys.argv[1]
rows = [(user, f"i{item}", item) for user in range(150) for item in range(user % 7, 400, 5)]
frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


def in_child(work):
    '''Return what a forked child's call returns as JSON, or the type and text of its error.'''
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        faulthandler.register(signal.SIGALRM, chain=True)  # shows where it hangs, and ends it
        signal.alarm(200)
        try:
            answer = work()
        except Exception as error:
            answer = [type(error).__name__, str(error)]
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0 and text, f"status {status}"
    return json.loads(text)


def use_all_threads():
    '''Use the threads of Polars and torch.'''
    frame.sort("time").group_by("user").len()
    torch.ones(2000, 500) @ torch.ones(500, 2000)


def uses(rec, name):
    '''All that a recommender serves, as plain values.'''
    users = [0, "7", 12.0]
    rec.save(f"{folder}/{name}")
    again = fastncf.load(f"{folder}/{name}")
    found = [
        rec.recommend(users, 5).rows(),
        rec.recommend(users, 5, output="pandas").to_dict("records"),
        again.recommend(pl.Series(users, dtype=pl.Object), 300).to_dicts(),
        rec.recommend(users, 3, items=["i3", "i4", "i9"], exclude=pl.DataFrame({"user": [7], "item": ["i3"]})).rows(),
        again.recommend([*users, "x"], 3, unknown="popular", exclude=["i4"]).rows(),
        rec.score(users, np.array(["i3", "i0", "i399"])).rows(),
        rec.evaluate(full_ranking=True, num_candidates=20).metrics,
        again.evaluate().metrics,
    ]
    if rec.plan.final.model not in ("popularity", "Own"):
        found.append(rec.similar_items(["i3", "i4"], 350).rows())
        found.append(again.similar_users(users, 5).rows())
        found.append([rec.user_vectors().rows(), rec.item_vectors().rows()])
    if rec.plan.final.model == "mf":
        found.append(rec.recommend(history=["i3", "i4"], k=5).rows())
        found.append(again.recommend(history=["x", "i4"], k=5, unknown="skip", items=["i3", "i9"]).rows())
    return found

"""


def run(code: str, folder: Path) -> None:
    """Run code behind that of the parent in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PARENT + code, str(folder)], cwd=FOLDER, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


@needs_fork
def test_a_child_serves_what_its_parent_does(tmp_path):
    run(
        """
class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = torch.nn.Embedding(150, 200), torch.nn.Embedding(400, 200)
        self.output = torch.nn.Linear(200, 1)

    def forward(self, user, item):
        return self.output(self.user(user) * self.item(item)).squeeze(-1)

def on_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(uses(rec, "thread")))
    thread.start()
    thread.join()
    return found[0]

load = fastncf.load
for kind in ("mf", "popularity", "mf as a module", "mlp", "own"):
    name, _, as_module = kind.partition(" ")
    rec = fastncf.fit(frame, model=Own() if name == "own" else name, epochs=1, num_candidates=20)
    use_all_threads()
    if as_module:
        rec.model  # from now on torch computes
    if name == "own":
        fastncf.load = lambda folder: load(folder, model=Own())
    expected = json.loads(json.dumps(uses(rec, "parent")))
    assert in_child(lambda: uses(rec, "child")) == expected, kind
    assert in_child(lambda: in_child(lambda: uses(rec, "grandchild"))) == expected, kind
    assert in_child(on_a_thread) == expected, kind
""",
        tmp_path,
    )


@needs_fork
def test_a_child_trains_again_and_reports_as_its_first_call(tmp_path):
    """The text ids are those that Polars would join, and the child has called nothing that prepares torch."""
    run(
        """
def evaluated(rec):
    return rec.evaluate(num_candidates=5).metrics

def refitted(rec):
    return rec.refit().recommend(7, 5)["item"].to_list()

settings = {}, {"loss": "softmax"}, {"model": "mlp"}, {"model": "mlp", "loss": "softmax"}
fitted = [fastncf.fit(frame, epochs=1, num_candidates=20, progress=False, **changes) for changes in settings]
for rec in fitted:
    rec.recommend(7)
use_all_threads()
found = [(in_child(lambda: evaluated(rec)), in_child(lambda: refitted(rec))) for rec in fitted]
for rec in fitted:
    assert in_child(lambda: rec.report(folder + "/report.html").name) == "report.html"
assert found == [(evaluated(rec), refitted(rec)) for rec in fitted]
""",
        tmp_path,
    )


@needs_fork
def test_a_child_says_at_once_what_needs_the_threads_of_its_parent(tmp_path):
    run(
        """
use_all_threads()
frame.write_csv(f"{folder}/ratings.csv")
test = frame.unique("user", keep="last")
for work in (
    lambda: fastncf.fit(frame, epochs=1),
    lambda: fastncf.fit(f"{folder}/ratings.csv", epochs=1),
    lambda: fastncf.fit(frame.lazy(), test=test, epochs=1),
    lambda: fastncf.plan_fit(frame),
):
    name, message = in_child(work)
    assert name == "ForkError" and "reading interactions needs the threads of Polars" in message, message

def write():
    from fastncf.data.synthetic import write_synthetic_movielens
    write_synthetic_movielens(f"{folder}/x.csv", 20, 20, 100)

assert in_child(write)[0] == "ForkError"
assert not os.path.exists(f"{folder}/x.csv")
rec = fastncf.fit(frame, epochs=1)  # the parent goes on as before
for work in (
    lambda: str(rec.recommend(out=f"{folder}/recs.parquet")),
    lambda: str(rec.recommend(out=f"{folder}/recs.csv")),
    lambda: list(map(str, rec.export(f"{folder}/vectors"))),
):
    name, message = in_child(work)
    assert name == "ForkError" and "needs the threads of Polars" in message, message
assert not {"recs.parquet", "recs.csv", "vectors"} & set(os.listdir(folder))
assert in_child(lambda: list(map(str, rec.export(f"{folder}/vectors.npz")))) == [f"{folder}/vectors.npz"]
""",
        tmp_path,
    )


@needs_fork
def test_loading_and_serving_start_no_threads_so_that_a_child_can_do_everything(tmp_path):
    """A server that loads models and then forks: its workers have threads of their own."""
    models = "models = 'mf', 'popularity', 'mlp'\n"
    fit_all = "for name in models: fastncf.fit(frame, model=name, epochs=1).save(f'{folder}/{name}')"
    run(models + fit_all, tmp_path)
    run(
        models
        + """
loaded = [fastncf.load(f"{folder}/{name}") for name in models]
for rec in loaded:
    rec.recommend([0, 1])
    rec.score([1, 2], ["i3", "i5"])

def work(rec):
    frame.filter(pl.col("user") > 5).sort("time")
    rec.recommend([5, 6]).filter(pl.col("rank") == 1)
    fastncf.fit(frame, model=rec.plan.final.model, epochs=1)
    return "done"

assert [in_child(lambda: work(rec)) for rec in loaded] == ["done"] * 3
""",
        tmp_path,
    )


@needs_fork
def test_a_child_trains_on_one_thread_of_torch(tmp_path):
    run(
        """
def work():
    rec = fastncf.fit(frame, model="mlp", epochs=1, dropout=0.1, precision="float32", device="cpu")
    return [rec.metrics, torch.get_num_threads()]

torch.ones(2000, 500) @ torch.ones(500, 2000)
metrics, threads = in_child(work)
assert threads == 1
use_all_threads()
assert work() == [metrics, 2]
""",
        tmp_path,
    )


def test_polars_counts_as_used_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "_TASKS", tmp_path / "missing")
    assert processes._has_polars_threads()
    monkeypatch.delitem(sys.modules, "polars")
    assert not processes._has_polars_threads()


def test_a_thread_that_ends_meanwhile_does_not_matter(monkeypatch, tmp_path):
    for number, name in ((1, "python"), (2, None), (3, "polars-ooc-cleaner")):
        (tmp_path / str(number)).mkdir()
        if name is not None:
            (tmp_path / str(number) / "comm").write_text(name + "\n")
    monkeypatch.setattr(processes, "_TASKS", tmp_path)
    assert not processes._has_polars_threads()
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "comm").write_text("polars-0\n")
    assert processes._has_polars_threads()


def test_the_sentence_names_what_is_accepted(monkeypatch):
    monkeypatch.setattr(processes, "_lost", frozenset({"polars"}))
    with pytest.raises(ForkError, match=r"reading needs the threads of Polars.*expected: .*'spawn'"):
        processes.require_polars_threads("reading")


@needs_fork
def test_a_child_serves_whatever_other_threads_of_its_parent_were_doing(tmp_path):
    """A fork may come while a thread of the parent compiles, trains, or holds a lock."""
    run(
        """
import random, time

rec = fastncf.fit(frame, epochs=1, num_candidates=20)
expected = json.loads(json.dumps(uses(rec, "parent")))
is_over = threading.Event()

def train():
    while not is_over.is_set():
        for settings in ({"model": "gmf", "optimizer": "adam", "dim": 8}, {"history": "none"}):
            fastncf.fit(frame, epochs=1, **settings)

thread = threading.Thread(target=train)
thread.start()
try:
    for _ in range(5):
        time.sleep(random.uniform(0, 0.5))
        assert in_child(lambda: uses(rec, "child")) == expected
finally:
    is_over.set()
    thread.join()
""",
        tmp_path,
    )
