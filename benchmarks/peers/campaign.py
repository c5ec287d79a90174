"""A system on a data set: settings chosen on validation items, then one fit that the test items measure."""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.evaluator import K, check_lists, list_metrics, score_metrics
from benchmarks.peers.histories import Histories, draw_candidates
from benchmarks.peers.systems import System

_ROOT = Path(__file__).parents[2]
_THREADS = (
    *(f"{library}_NUM_THREADS" for library in ("FASTNCF", "LK", "MKL", "NUMBA", "OMP", "OPENBLAS", "RAYON")),
    "POLARS_MAX_THREADS",
)
"""Variables by which the libraries take their number of threads."""

_SHARE_OF_TRIAL = 1 / 3
"""Largest share of the budget that one trial may use."""


@dataclass(frozen=True)
class Limits:
    """Limits of a system on a data set, in seconds of processor time, so that the load of the machine decides nothing.

    Attributes:
        tuning: for all trials together; one may use a third of it. 0: the first settings are taken.
        fit: for the training of the final fit.
        answers: for everything else: imports, preparation, lists, scores.
        threads: that each system may use.
    """

    tuning: float
    fit: float
    answers: float
    threads: int


@dataclass(frozen=True)
class Question:
    """Data that a fit gets and is measured by.

    Attributes:
        histories: training interactions.
        seen: histories of what lists may not hold.
        held_out: (U,) int32, the item that is to be found for each user, or -1.
        candidates: (U, C) int32, items that it is compared with by scores; -1 fills up.
    """

    histories: Histories
    seen: Histories
    held_out: np.ndarray
    candidates: np.ndarray


def questions(everything: Histories, num_candidates: int, seed: int) -> tuple[Question, Question]:
    """Return the question of the trials, whose items are the last but one, and that of the test, the last items."""
    training, test = everything.without_last()
    earlier, validation = training.without_last()
    candidates = draw_candidates(training, test, num_candidates, seed)
    none = np.empty((everything.num_users, 0), dtype=np.int32)
    return Question(earlier, earlier, validation, none), Question(training, training, test, candidates)


class FitFailedError(Exception):
    """A fit did not end; the message says why."""


def run_fit(
    system: System,
    python: Path,
    settings: dict[str, Any],
    question: Question,
    folder: Path,
    *,
    seconds: float,
    limits: Limits,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit a system in a process of its own, and return its report with its metrics.

    Args:
        system: what is fitted.
        python: interpreter of its environment.
        settings: one of its trials.
        question: what it gets and what it is measured by.
        folder: for the files between the processes.
        seconds: processor time for the training.
        limits: of the campaign.
        seed: of the fit.

    Raises:
        FitFailedError: it ran out of time or memory, raised, or stored lists that no system may give.
    """
    report = _work(system, python, settings, question, folder, seconds=seconds, limits=limits, seed=seed)
    users = _tested(question)
    report["metrics"] = _metrics_of(np.load(folder / "lists.npy"), question)
    if (folder / "scores.npy").exists():
        positives, candidates = question.held_out[users][:, None], question.candidates[users]
        is_candidate = (candidates >= 0) & (candidates != positives)
        report["metrics"] |= score_metrics(np.load(folder / "scores.npy"), is_candidate)
    return report


def run_curve(
    system: System,
    python: Path,
    settings: dict[str, Any],
    question: Question,
    folder: Path,
    *,
    seconds: float,
    limits: Limits,
) -> dict[str, Any]:
    """Fit a system in a process of its own, and return what its lists are worth at several times of the training.

    The arguments and errors are those of :func:`run_fit`.

    Returns:
        ``done``, and ``points``: for each the seconds of the processor and of the clock, and the metrics.
    """
    report = _work(system, python, settings, question, folder, seconds=seconds, limits=limits, has_points=True)
    points = []
    for number, (processor, clock) in enumerate(report["points"]):
        metrics = _metrics_of(np.load(folder / f"points-{number}.npy"), question)
        points.append({"processor_seconds": processor, "seconds": clock, **metrics})
    return {**report, "points": points}


def _tested(question: Question) -> np.ndarray:
    """Return the users (n,) int32 with a held-out item."""
    return np.flatnonzero(question.held_out >= 0).astype(np.int32)


def _metrics_of(found: np.ndarray, question: Question) -> dict[str, float]:
    """Return the metrics of the lists (n, K) of the tested users.

    Raises:
        FitFailedError: no system may give such lists.
    """
    lists = np.full((question.seen.num_users, K), -1, dtype=np.int32)
    lists[_tested(question)] = found
    try:
        check_lists(lists, question.seen.indptr, question.seen.items, question.seen.num_items)
    except ValueError as error:
        raise FitFailedError(str(error)) from None
    return list_metrics(lists, question.held_out)


def _work(
    system: System,
    python: Path,
    settings: dict[str, Any],
    question: Question,
    folder: Path,
    *,
    seconds: float,
    limits: Limits,
    seed: int = 0,
    has_points: bool = False,
) -> dict[str, Any]:
    """Let a worker do a job, and return its report; its answers lie in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "lists.npy", "scores.npy"):
        (folder / name).unlink(missing_ok=True)
    users = _tested(question)
    positives, candidates = question.held_out[users][:, None], question.candidates[users]
    items = np.hstack([positives, candidates]) if candidates.size else np.empty((len(users), 0), dtype=np.int32)
    question.histories.save(folder / "histories.npz")
    np.savez(folder / "queries.npz", users=users, items=items)
    job = {
        "adapter": system.adapter,
        "system": system.name,
        "settings": settings,
        "seed": seed,
        "seconds": seconds,
        "has_points": has_points,
        "processor_limit": seconds + limits.answers,
        "histories": str(folder / "histories.npz"),
        "queries": str(folder / "queries.npz"),
        "folder": str(folder),
        "k": K,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return _run(python, folder, limits.threads)


def _run(python: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Run a worker on the job of a folder, and return its report."""
    environment = {**os.environ, **{name: str(threads) for name in _THREADS}}
    environment |= {"PYTHONPATH": str(_ROOT), "CUDA_VISIBLE_DEVICES": "", "MPLCONFIGDIR": str(folder)}
    environment.pop("PYTHONHOME", None)
    with open(folder / "output.txt", "w", encoding="utf-8") as output:
        command = [str(python), "-m", "benchmarks.peers.worker", str(folder / "job.json")]
        code = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=output).returncode
    path = folder / "report.json"
    if code == 0 and path.exists():
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return report
    if code == -24:  # SIGXCPU
        raise FitFailedError("did not end within its limit of processor time")
    if code < 0:
        raise FitFailedError(f"ended by signal {-code}")
    lines = [line for line in (folder / "output.txt").read_text(encoding="utf-8").splitlines() if line.strip()]
    raise FitFailedError(f"failed: {lines[-1][:200] if lines else 'without a word'}")


def warm_up(system: System, python: Path, folder: Path, limits: Limits) -> float:
    """Fit a system on a few drawn histories, so that later fits find what it compiles, and return the seconds.

    Raises:
        FitFailedError: the fit failed.
    """
    random = np.random.default_rng(0)
    items = np.argsort(random.random((200, 60)), axis=1)[:, :20].astype(np.int32)
    asked = questions(Histories(60, np.arange(201) * 20, items.ravel()), 5, seed=0)[1]
    found = run_fit(system, python, system.trials[0], asked, folder, seconds=limits.fit, limits=limits)
    return sum(found["processor_seconds"].values())


def measure(
    system: System, python: Path, asked: tuple[Question, Question], folder: Path, limits: Limits
) -> dict[str, Any]:
    """Choose settings on validation items, fit with them, and return what was found.

    Returns:
        ``trials``, each with its settings and the NDCG@10 of the whole catalogue on validation items or why it failed;
        ``settings``; and the report of the final fit, or ``failed``.
    """
    trials: list[dict[str, Any]] = []
    left = limits.tuning
    for settings in system.trials if len(system.trials) > 1 and limits.tuning else ():
        seconds = min(limits.tuning * _SHARE_OF_TRIAL, left)
        if seconds < 1:
            break
        start = time.perf_counter()
        try:
            found = run_fit(system, python, settings, asked[0], folder, seconds=seconds, limits=limits)
            used = sum(found["processor_seconds"].values())
            trial = {"settings": settings, "ndcg": found["metrics"][f"full/ndcg@{K}"], "done": found["done"]}
        except FitFailedError as error:
            used, trial = seconds, {"settings": settings, "failed": str(error)}
        left -= used
        trials.append({**trial, "seconds": time.perf_counter() - start, "processor_seconds": used})
    best = max((trial for trial in trials if "ndcg" in trial), key=lambda trial: trial["ndcg"], default=None)
    settings = best["settings"] if best else system.trials[0]
    result = {"settings": settings, "trials": trials, "num_trials": len(system.trials)}
    try:
        return result | run_fit(system, python, settings, asked[1], folder, seconds=limits.fit, limits=limits)
    except FitFailedError as error:
        return result | {"failed": str(error)}
