"""Measure whether evaluations take longer than in other commits: ``python -m benchmarks.evaluations BASE ... --write``.

Each commit and HEAD are checked out into temporary worktrees, and measured in one run by a process of their own each.
They fit the same models to the same generated data, must rank the held-out items alike, and take turns at evaluating
them: 99 candidates of each user are drawn and ranked, and the whole catalogue. Seconds are of the processor, so that
other work on the machine counts little. Several held-out items of a user are a case where both sides have it.

``--write`` writes ``results/evaluations.json`` and the table of ``RESULTS.md``.
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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

MODELS: dict[str, dict[str, Any]] = {
    "mf": {"model": "mf", "history": "none", "loss": "bce", "epochs": 1, "dim": 64, "l2": 0.005},
    "mlp": {"model": "mlp", "optimizer": "adam", "history": "none", "epochs": 1, "dim": 16, "layers": (64, 32)},
}
SEVERAL = "a fifth of each user's items"
HOLDOUTS: dict[str, dict[str, Any]] = {"one item of each user": {}, SEVERAL: {"holdout": 0.2}}
RANKINGS = {"1 + 99": False, "whole catalogue": True}

_SHAPE = {"users": 1_500, "items": 2_000, "interactions": 75_000}


def work(folder: Path, models: list[str]) -> None:
    """Fit models, then evaluate the one that each line of the standard input asks for, and answer in JSON."""
    import fastncf

    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        fitted: dict[str, Any] = {}
        for model in models:
            for holdout, held_out in HOLDOUTS.items():
                if _takes(fastncf.Config, held_out):
                    fitted[f"{model}, {holdout}"] = fastncf.fit(
                        folder / "data.csv", device="cpu", seed=1, **MODELS[model], **held_out
                    )
        print(json.dumps(list(fitted)), file=out, flush=True)
        for line in sys.stdin:
            name, is_full = json.loads(line)
            start = time.process_time()
            metrics = fitted[name].evaluate(num_candidates=99, full_ranking=is_full)[0]
            print(json.dumps([time.process_time() - start, metrics]), file=out, flush=True)


def _takes(config: Any, settings: dict[str, Any]) -> bool:
    """Return whether a version has a setting."""
    try:
        config(**settings)
    except Exception:  # each version has errors of its own
        return False
    return True


def measure(tree: Path, base: Path, models: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Return for each case the seconds of ``base`` and ``head`` in each round, and whether the metrics are the same."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        flags = [f"--{noun}={number}" for noun, number in _SHAPE.items()]
        command = [sys.executable, "-m", "fastncf", "generate", "data.csv", *flags]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        subprocess.run(command, cwd=name, env=environment, stdout=subprocess.DEVNULL, check=True)
        sides = {"base": _start(base, name, models, stack), "head": _start(tree, name, models, stack)}
        known = [json.loads(_line(side)) for side in sides.values()]
        cases = [(one, label, is_full) for one in known[1] if one in known[0] for label, is_full in RANKINGS.items()]
        for number in range(rounds + 1):  # the first one compiles
            for one, label, is_full in cases:
                row = found.setdefault(f"{one}, {label}", {"base": [], "head": [], "differs": False})
                answers = {}
                for side in sorted(sides, reverse=bool(number % 2)):
                    _ask(sides[side], json.dumps([one, is_full]))
                    seconds, answers[side] = json.loads(_line(sides[side]))
                    row[side] += [seconds] if number else []
                common = set(answers["base"]) & set(answers["head"])
                row["differs"] |= any(abs(answers["base"][key] - answers["head"][key]) > 1e-12 for key in common)
    return found


def _start(tree: Path, folder: str, models: list[str], stack: ExitStack) -> "subprocess.Popen[str]":
    """Start the worker of a folder that has the package."""
    return stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-P", __file__, "--work", folder, *models],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(tree)},
            cwd=folder,
        )
    )


def _ask(worker: "subprocess.Popen[str]", question: str) -> None:
    """Write a line to the standard input of a worker."""
    assert worker.stdin is not None
    worker.stdin.write(question + "\n")
    worker.stdin.flush()


def _line(worker: "subprocess.Popen[str]") -> str:
    """Return the next answer of a worker.

    Raises:
        SystemExit: it has ended.
    """
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit("a worker has failed, see its message above")
    return line


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    yield (
        f"One run on {found['date']}: {found['machine']}; commit {found['head'][:12]}, {found['rounds']} rounds in "
        f"turns, load {found['load']:.0f}. Seconds of the processor; a ratio below 1 is faster than before."
    )
    yield ""
    yield "| evaluation | before | now | median ratio | ratio of the best | |"
    yield "|---|---|---|---|---|---|"
    for base, rows in found["bases"].items():
        for name, row in rows.items():
            median = statistics.median(head / base for head, base in zip(row["head"], row["base"], strict=True))
            best = {side: min(row[side]) for side in ("base", "head")}
            remark = "metrics differ" if row["differs"] else "the same metrics"
            yield (
                f"| {name} | {best['base']:.4f} s in {base[:12]} | {best['head']:.4f} s | **{median:.2f}** | "
                f"{best['head'] / best['base']:.2f} | {remark} |"
            )


def main() -> None:
    """Run the command line."""
    from benchmarks.compare_commits import ROOT, git, worktree
    from benchmarks.report import machine, publish

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="+", metavar="BASE", help="commits that HEAD is compared with")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {**machine(), "head": git(ROOT, "rev-parse", "HEAD"), "rounds": options.rounds, "bases": {}}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        head = stack.enter_context(worktree(found["head"], Path(folder) / "head"))
        for number, name in enumerate(options.bases):
            commit = git(ROOT, "rev-parse", name)
            tree = stack.enter_context(worktree(commit, Path(folder) / f"base{number}"))
            found["bases"][commit] = measure(head, tree, options.models, options.rounds)
    found["load"] = os.getloadavg()[0]
    print("\n".join(table(found)))
    if options.write:
        publish("evaluations", found, table(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), sys.argv[3:])
    else:
        main()
