"""Campaigns of many random cases, each made from one seed, in processes whose crash or hang is noticed.

A module of cases ends with ``sys.exit(campaigns.main(__name__, try_one))``. Its command line is ``SEED COUNT``: each
case that is wrong is printed with the command that tries it again, and then how many there were of each kind.
"""

import faulthandler
import json
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

SECONDS = 120
"""Seconds after which a case counts as a hang; the first one of a process, which may compile, has ten times as many."""

MOST_MEMORY = 3 << 29
"""Bytes of memory that a process may have at most while it tries one case after the other: the stated bound."""

_ADDRESS_SPACE = 24 << 30  # Polars reserves much more than it uses

Try = Callable[[int, Path], str]
"""Tries a seed in an empty folder and returns the kind of the case; raises anything where something is wrong."""


def work(first: int, last: int, try_one: Try) -> None:
    """Try seeds one after the other, and print a line of JSON before and after each."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.set_int_max_str_digits(0)  # numbers of thousands of digits are compared as well
    results = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # panics of Polars, which are caught, are printed there
    for seed in range(first, last):
        print(json.dumps({"begins": seed}), file=results, flush=True)
        faulthandler.dump_traceback_later(SECONDS if seed > first else 10 * SECONDS, exit=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = {"kind": try_one(seed, Path(folder))}
            except BaseException:
                result = {"wrong": traceback.format_exc()[-900:]}
        faulthandler.cancel_dump_traceback_later()
        peak = _peak_memory()
        print(json.dumps({**result, "peak": peak}), file=results, flush=True)


def _peak_memory() -> int:
    """Return the peak memory of this process in bytes; ``ru_maxrss`` counts that of the parent before ``exec`` too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def failures(
    module: str, first: int, count: int, tried: Counter[str], environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Try seeds in processes of their own, count the cases, and yield what to print of each that is wrong.

    A seed at which a process ends is tried again by a new one, which gives it ten times as long, since a machine that
    does other work may be slow: only what ends both is a crash or a hang.

    Args:
        module: name of the module of the cases.
        first: the first seed.
        count: number of seeds.
        tried: counts of the cases by kind, which are added to; ``peak`` is the largest memory of a process in bytes.
        environment: variables of the processes beside those of this one.
    """
    seed, last, ended_at = first, first + count, -1
    variables = {**os.environ, "POLARS_MAX_THREADS": "2", **(environment or {})}
    while seed < last:
        command = [sys.executable, "-m", module, "--work", str(seed), str(last)]
        before, is_over = 0, False
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
            assert process.stdout is not None
            for line in process.stdout:
                result = json.loads(line)
                if "begins" in result:
                    seed, is_over = result["begins"], False
                    continue
                is_over, seed = True, seed + 1
                tried["peak"] = max(tried["peak"], result["peak"])
                if "wrong" in result:
                    yield _describe(module, seed - 1, result["wrong"])
                elif result["peak"] > MOST_MEMORY >= before:
                    yield _describe(module, seed - 1, f"memory grew from {before:,} to {result['peak']:,} bytes")
                else:
                    tried[result["kind"]] += 1
                before = result["peak"]
        if seed < last and not is_over:
            if seed == ended_at:
                yield _describe(module, seed, f"the process ended with {process.returncode}: a crash or a hang")
                seed += 1
            else:
                ended_at = seed


def _describe(module: str, seed: int, reason: str) -> str:
    return f"{reason}\n  python -m {module} {seed} 1"


def main(module: str, try_one: Try, environment: Mapping[str, str] | None = None) -> int:
    """Run a command line, print what is wrong, and return the exit status."""
    if sys.argv[1] == "--work":
        work(int(sys.argv[2]), int(sys.argv[3]), try_one)
        return 0
    first, count, tried, failed = int(sys.argv[1]), int(sys.argv[2]), Counter[str](), 0
    for text in failures(module, first, count, tried, environment):
        failed += 1
        print(text, flush=True)
    peak = tried.pop("peak", 0)
    print(json.dumps({"cases": count, "failed": failed, "peak": peak, "kinds": dict(sorted(tried.items()))}))
    return int(failed > 0)
