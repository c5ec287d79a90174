"""Load saved models in fresh processes: time, memory, and the size of the packages: ``python -m benchmarks.loading``.

A small model shows what the imports take, and one of 100,000 users, 50,000 items, 64 dimensions and 4 M interactions
with histories what memory it takes. The processes import no torch; ``--python`` names the interpreter of an environment
without it. Times are of the CPU, since those of a clock depend on what else the machine does. ``--write`` writes
``results/loading.json`` and the table of ``RESULTS.md``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import fastncf
from benchmarks.report import machine, publish

ROOT = Path(__file__).parents[1]
USERS, ITEMS, INTERACTIONS = 100_000, 50_000, 4_000_000

CODE = """
import sys
sys.modules["torch"] = None
import json, re, time

def memory():
    text = open("/proc/self/status").read()
    return {name: 1024 * int(re.search(rf"{name}:\\s+(\\d+)", text)[1]) for name in ("VmRSS", "VmHWM")}

begin = time.process_time()
import fastncf
rec = fastncf.load(sys.argv[1])
loaded = time.process_time()
assert len(rec.recommend(rec.users.ids[0], 10)) == 10
asked = time.process_time()
found = {"load": loaded - begin, "first": asked - loaded}
if len(sys.argv) > 2:
    before = memory()
    large = fastncf.load(sys.argv[2])
    after = memory()
    assert len(large.recommend(large.users.ids[0], 10)) == 10
    found |= {"kept": after["VmRSS"] - before["VmRSS"], "peak": after["VmHWM"] - before["VmHWM"]}
    found["asked"] = memory()["VmRSS"] - before["VmRSS"]
print(json.dumps(found))
"""


def save_models(folder: Path) -> tuple[Path, Path]:
    """Fit and save the small model and the large one; return their folders."""
    generator = np.random.default_rng(0)
    paths = folder / "small", folder / "large"
    settings: dict[str, Any] = {"loss": "bce", "history": "sequence", "l2": 0.001, "epochs": 1, "progress": False}
    for path, users, items, rows in ((paths[0], 300, 200, 9_000), (paths[1], USERS, ITEMS, INTERACTIONS)):
        item = (generator.random(rows) ** 1.5 * items).astype(np.int32)
        frame = pl.DataFrame({"user": generator.integers(0, users, rows), "item": item, "time": np.arange(rows)})
        fastncf.fit(frame, dim=64, **settings).save(path)
    return paths


def measure(python: str, rounds: int) -> dict[str, Any]:
    """Return the medians of processes; the first one, which may compile the kernels, does not count."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as name:
        small, large = save_models(Path(name))
        size = sum(path.stat().st_size for path in large.iterdir())
        found = []
        for number in range(rounds + 1):
            done = subprocess.run(
                [python, "-c", CODE, str(small), *([str(large)] if number % 2 else [])],
                env={**environment, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=True,
            )
            found.append(json.loads(done.stdout))
    medians = {key: statistics.median(one[key] for one in found[1:] if key in one) for key in found[1]}
    return {"rounds": rounds, "file_bytes": size, "installed_bytes": _installed_bytes(python), **medians}


def _installed_bytes(python: str) -> int:
    """Return the bytes that the packages of an environment take on the disk."""
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    folder = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    out = subprocess.run(["du", "-sk", folder], capture_output=True, text=True, check=True).stdout
    return 1024 * int(out.split()[0])


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    size = found["file_bytes"]
    yield f"One run on {found['date']}: {found['machine']}; medians of {found['rounds']} processes."
    yield ""
    yield "| what | figure |"
    yield "|---|---|"
    yield f"| imports and `load` of a small model, seconds of CPU | **{found['load']:.2f} s** |"
    yield f"| the first `recommend` after that, seconds of CPU | {found['first']:.2f} s |"
    yield f"| files of the large model | {size / 1e6:.0f} MB |"
    kept, peak, asked = (found[name] / size for name in ("kept", "peak", "asked"))
    yield f"| memory after `load`, and the most meanwhile | **{kept:.2f}**, {peak:.2f} times the files |"
    yield f"| memory after the first `recommend` | {asked:.2f} times the files |"
    yield f"| packages of the environment | {found['installed_bytes'] / 1e6:.0f} MB |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter of an environment without torch")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found = {**machine(), **measure(options.python, options.rounds)}
    print("\n".join(table(found)))
    if options.write:
        publish("loading", found, table(found))


if __name__ == "__main__":
    main()
