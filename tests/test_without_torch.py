"""Without torch an ``mf``, a ``gmf`` and a ``popularity`` are fitted and serve; the rest says what it needs."""

import json
import subprocess
import sys
from pathlib import Path

import fastncf

ROOT = Path(fastncf.__file__).parents[1]
SAVED = ROOT / "tests" / "golden" / "saved"

CODE = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import json
from pathlib import Path
import polars as pl
import fastncf
from fastncf import cli
from fastncf.accelerators import has_torch, may_have_device

assert not has_torch()
folder, saved = map(Path, sys.argv[1:])
rows = [(user, item, item) for user in range(40) for item in range(user % 5, 30, 3)]
frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
new = pl.DataFrame({"user": [1, 2, 99], "item": [1, 4, 7]})
SETTINGS = {"epochs": 1, "num_candidates": 5}


def code_of(*words):
    try:
        cli.main(list(words))
    except SystemExit as stopped:
        return stopped.code


for history in ("sequence", "none"):
    fastncf.fit(frame, history=history, full_ranking=True, **SETTINGS).save(folder / "model")
    for rec in (fastncf.load(folder / "model"), fastncf.load(folder / "model", device="auto")):
        assert len(rec.recommend([1, 2], 3)) == 6
        assert len(rec.recommend(history=[1, 4], k=3, items=[1, 2, 3, 4, 5])) == 3
        assert len(rec.recommend([1, "x"], 3, unknown="popular", exclude=[1])) == 6
        assert len(rec.similar_items(1, 3)) == len(rec.similar_users(1, 3)) == 3
        assert "full/hr@10" in rec.evaluate(full_ranking=True).metrics
        assert len(rec.score([1], [2])) == len(rec.item_vectors()[:1]) == 1
        rec.export(folder / "vectors.npz")
        rec.export(folder / "vectors")
        rec.recommend(out=folder / "recs.parquet")
        rec.update(new).update(new, epochs=1, progress=False)
        assert len(rec.recommend(99, 3)) == 3
        rec.refit(progress=False).save(folder / "again")
        assert fastncf.load(folder / "again").recommend(99, 3).equals(rec.recommend(99, 3))

for settings in ({"model": "gmf", "epochs": 1}, {"model": "popularity"}):
    fastncf.fit(frame, num_candidates=5, full_ranking=True, **settings).save(folder / "other")
    rec = fastncf.load(folder / "other")
    assert len(rec.recommend([1, 2], 3)) == 6 and len(rec.recommend(history=[1, 4], k=3)) == 3
    assert "full/hr@10" in rec.evaluate().metrics and len(rec.score([1], [2])) == 1
    rec.update(new).update(pl.DataFrame({"user": [98], "item": [888]}), epochs=1, progress=False)
    rec.refit(progress=False).save(folder / "other")
    assert fastncf.load(folder / "other").recommend([98, 99], 3).equals(rec.recommend([98, 99], 3))

fastncf.fit(frame, epochs=1, num_candidates=5).save(folder / "model")
model = str(folder / "model")
assert code_of("recommend", model, "--user", "1", "--quiet") in (0, None)
assert code_of("evaluate", model, "--quiet") in (0, None)


def sentence(call):
    try:
        call()
    except fastncf.FastNCFError as error:
        return str(error)


fit = lambda **settings: lambda: fastncf.fit("nowhere.csv", progress=False, **settings)
rec = fastncf.load(folder / "model")
found = {
    "load an mlp": sentence(lambda: fastncf.load(saved / "mlp")),
    "load a neumf": sentence(lambda: fastncf.load(saved / "neumf")),
    "load a module": sentence(lambda: fastncf.load(folder / "model", model=object())),
    "load on a device": sentence(lambda: fastncf.load(folder / "model", device="cuda")),
    "fit an mlp": sentence(fit(model="mlp")),
    "fit on a device": sentence(fit(device="cuda:0")),
    "fit by adam": sentence(fit(optimizer="adam")),
    "fit a module": sentence(fit(model=object())),
    "fit as the notebook": sentence(fit(config=fastncf.Config.notebook())),
    "model": sentence(lambda: rec.model),
    "device": sentence(lambda: rec.device),
}
assert code_of("fit", "nowhere.csv", "--model", "mlp") == 1
print(json.dumps(found))
"""


def test_an_mf_needs_no_torch_and_the_rest_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), str(SAVED)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "fastncf: --model mlp needs torch: pip install torch\n" in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    subjects = {
        "load an mlp": "load: a saved 'mlp'",
        "load a neumf": "load: a saved 'neumf'",
        "load a module": "load: a module of your own",
        "load on a device": "device='cuda'",
        "fit an mlp": "model='mlp'",
        "fit on a device": "device='cuda:0'",
        "fit by adam": "optimizer='adam'",
        "fit a module": "a module of your own",
        "fit as the notebook": "model='mlp'",
        "model": "the model as a module",
        "device": "the model as a module",
    }
    assert found == {name: f"{subject} needs torch: pip install torch" for name, subject in subjects.items()}
