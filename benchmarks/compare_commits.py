"""Measure whether HEAD is slower than another commit, in one run: ``python -m benchmarks.compare_commits BASE``.

Both commits are checked out into temporary worktrees. Each is measured by a process of its own that runs the fits of
``workloads.py`` on the same generated files, and by fresh processes of the command line. The two sides take turns, one
at a time; which side begins alternates from round to round. Kernels are compiled before the first round. Every fit must
give the same losses, parameters and metrics on both sides.

For each measure the table shows the median of the ratios HEAD / BASE of the rounds with its quartiles, and the ratio of
the best rounds; less than 1 is faster. A measure counts as slower where both ratios are above 1 + ``--threshold``. The
exit code is 1 where a measure is slower or a result differs. The last line is the whole as JSON. With default settings
it ends within 10 minutes on two cores. ``--write`` writes ``results/compare_commits.json`` and the table of
``RESULTS.md``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from benchmarks import workloads
from benchmarks.report import duration, machine, publish

ROOT = Path(__file__).resolve().parents[1]
SIDES = "base", "head"
START_UP = {
    "fastncf fit --budget fast": ["-m", "fastncf", "fit", "start.csv", "--budget", "fast", "--json"],
    "fastncf --help": ["-m", "fastncf", "--help"],
    "import fastncf": ["-c", "import fastncf"],
}
"""Arguments of Python for each command whose wall time is measured."""


class Size(NamedTuple):
    """Size of a generated file."""

    users: int
    items: int
    interactions: int


SIZES = {
    "large": Size(16_000, 8_000, 2_000_000),
    "small": Size(6_000, 4_000, 300_000),
    "start": Size(943, 1_682, 100_000),
}
"""Generated files: that of reading, sampling and ``mf``, that of the layers, and that of the command line."""

Answer = dict[str, dict[str, Any]]
"""``seconds`` by measure, and ``results``, of one run of a workload."""


class Side:
    """One version of fastncf: a worker process for its fits, and fresh processes for the command line.

    Attributes:
        tree: folder that has the package ``fastncf``, and keeps its compiled kernels.
        folder: folder of the generated files.
    """

    def __init__(self, tree: Path, folder: Path) -> None:
        """Start the worker."""
        self.tree, self.folder = tree, folder
        self._environment = {**os.environ, "PYTHONPATH": str(tree)}
        self._worker = subprocess.Popen(
            # -P: without the folder of the script on sys.path, which has modules of its own
            [sys.executable, "-P", workloads.__file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            cwd=folder,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.__exit__(kind, error, trace)  # closes its standard input, whose end ends it, and waits for it

    def require_own_package(self) -> None:
        """Check that the worker, which has just been started, imports the package of ``tree``.

        Raises:
            SystemExit: it imports another one.
        """
        package = Path(self.receive()["package"])
        if package != self.tree.resolve() / "fastncf":
            raise SystemExit(f"the worker imports {package}, expected the package of {self.tree}")

    def send(self, workload: str) -> None:
        """Let the worker start a workload."""
        assert self._worker.stdin is not None
        self._worker.stdin.write(workload + "\n")
        self._worker.stdin.flush()

    def receive(self) -> Any:
        """Return the next answer of the worker.

        Raises:
            SystemExit: the worker has ended.
        """
        assert self._worker.stdout is not None
        line = self._worker.stdout.readline()
        if not line:
            raise SystemExit(f"the worker of {self.tree} has failed, see its message above")
        return json.loads(line)

    def run(self, name: str) -> Answer:
        """Run a workload, or a command of ``START_UP``."""
        if name not in START_UP:
            self.send(name)
            answer: Answer = self.receive()
            return answer
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *START_UP[name]],
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - start
        results = {"metrics": json.loads(done.stdout.splitlines()[-1])["metrics"]} if "fit" in name else {}
        return {"seconds": {name: seconds}, "results": results}


@contextmanager
def worktree(commit: str, folder: Path, repository: Path = ROOT) -> Iterator[Path]:
    """Check a commit out into a new folder for the length of a block.

    Args:
        commit: anything that names a commit.
        folder: does not exist yet.
        repository: the repository that has the commit.
    """
    git(repository, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        git(repository, "worktree", "remove", "--force", str(folder))


def git(repository: Path, *arguments: str) -> str:
    """Return what a git command prints.

    Raises:
        SystemExit: the command fails.
    """
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def generate(tree: Path, folder: Path, sizes: dict[str, Size]) -> None:
    """Write the files of ``sizes`` into ``folder`` with the package of ``tree``."""
    for name, size in sizes.items():
        flags = [f"--{noun}={number}" for noun, number in size._asdict().items()]
        subprocess.run(
            [sys.executable, "-m", "fastncf", "generate", f"{name}.csv", *flags],
            env={**os.environ, "PYTHONPATH": str(tree)},
            cwd=folder,
            stdout=subprocess.DEVNULL,
            check=True,
        )


def measure(sides: dict[str, Side], rounds: int) -> dict[str, dict[str, Any]]:
    """Run all workloads on both sides in turns.

    Args:
        sides: by the names of ``SIDES``.
        rounds: runs of each workload on each side, after one that compiles.

    Returns:
        For each measure ``base`` and ``head``, seconds of each round, and ``differs``: which results, if any, are not
        the same.
    """
    for name in workloads.FITS:  # both at once: this is not timed
        for side in sides.values():
            side.send(name)
    for _ in workloads.FITS:
        for side in sides.values():
            side.receive()
    for name in START_UP:
        for side in sides.values():
            side.run(name)
    found: dict[str, dict[str, Any]] = {}
    for number in range(rounds):
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        for name in (*workloads.FITS, *START_UP):
            answers = {which: sides[which].run(name) for which in order}
            for which, answer in answers.items():
                for measured, seconds in answer["seconds"].items():
                    row = found.setdefault(measured, {"base": [], "head": [], "differs": []})
                    row[which].append(seconds)
            base, head = (answers[which]["results"] for which in SIDES)
            differing = [kind for kind in base if base[kind] != head[kind]]
            for measured in answers["head"]["seconds"]:
                found[measured]["differs"] = sorted({*found[measured]["differs"], *differing})
    return found


def compare(trees: dict[str, Path], rounds: int, sizes: dict[str, Size]) -> dict[str, dict[str, Any]]:
    """Measure two folders that have the package, see :func:`measure`.

    Args:
        trees: by the names of ``SIDES``.
        rounds: of each workload on each side.
        sizes: of the generated files.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        generate(trees["head"], folder, sizes)
        sides = {which: stack.enter_context(Side(trees[which], folder)) for which in SIDES}
        for side in sides.values():
            side.require_own_package()
        return measure(sides, rounds)


def ratios(row: dict[str, Any]) -> dict[str, float]:
    """Return median and quartiles of the ratios head / base of the rounds, and the ratio of the best rounds."""
    pairwise = [head / base for head, base in zip(row["head"], row["base"], strict=True)]
    low, _, high = statistics.quantiles(pairwise, method="inclusive") if len(pairwise) > 1 else pairwise * 3
    best = min(row["head"]) / min(row["base"])
    return {"median": statistics.median(pairwise), "low": low, "high": high, "best": best}


def is_slower(row: dict[str, Any], threshold: float) -> bool:
    """Return whether both the median ratio and the ratio of the best rounds are above 1 + ``threshold``."""
    found = ratios(row)
    return min(found["median"], found["best"]) > 1 + threshold


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    yield (
        f"One run on {found['date']}: {found['machine']}, Python {found['versions']['python']}; commit "
        f"{found['head'][:12]} against {found['base'][:12]}, {found['rounds']} rounds in turns. A ratio below 1 is "
        f"faster than before."
    )
    yield ""
    yield "| what | before, best | now, best | median ratio (quartiles) | ratio of the best | |"
    yield "|---|---|---|---|---|---|"
    for name, row in found["measures"].items():
        ratio = ratios(row)
        remarks = ["slower"] if is_slower(row, found["threshold"]) else []
        remarks += [f"{kind} differ" for kind in row["differs"]]
        yield (
            f"| {name} | {duration(min(row['base']))} | {duration(min(row['head']))} | **{ratio['median']:.3f}** "
            f"({ratio['low']:.3f} to {ratio['high']:.3f}) | {ratio['best']:.3f} | {', '.join(remarks)} |"
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="the commit that HEAD is compared with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threshold", type=float, default=0.03, help="share by which a measure may be slower")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    commits = {which: git(ROOT, "rev-parse", name) for which, name in zip(SIDES, (options.base, "HEAD"), strict=True)}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        trees = {which: stack.enter_context(worktree(commits[which], Path(folder) / which)) for which in SIDES}
        measures = compare(trees, options.rounds, SIZES)
    found: dict[str, Any] = {
        "benchmark": "compare_commits",
        **machine(),
        **commits,
        "rounds": options.rounds,
        "threshold": options.threshold,
        "measures": {name: {**row, "ratios": ratios(row)} for name, row in measures.items()},
    }
    print("\n".join(table(found)))
    if options.write:
        publish("compare_commits", found, table(found))
    print(json.dumps(found))
    sys.exit(any(row["differs"] or is_slower(row, options.threshold) for row in measures.values()))


if __name__ == "__main__":
    main()
