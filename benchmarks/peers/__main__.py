"""Compare fastncf with its peers: ``python -m benchmarks.peers --data ml-100k=u.data --environments DIR``.

Each peer runs in an environment of its own, which is made from PyPI below ``--environments``, and in a process of its
own for each fit. Each user's last item is the test item. The settings of a system are chosen by the NDCG@10 of the last
but one items in the whole catalogue, within a budget that is the same for all, and the test items are looked at once.
Every system stores the ten best unseen items of each user, and scores of the test item and 99 others where it offers
scores; one evaluator of NumPy measures all of them.

Data sets, results and systems add up: what ``benchmarks/results/peers.json`` has is not measured again unless
``--again`` says so. ``--write`` writes the table of ``RESULTS.md`` and the picture.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.peers.campaign import Limits, measure, questions, warm_up
from benchmarks.peers.environments import EnvironmentFailedError, installed_bytes, python_of, versions
from benchmarks.peers.page import draw, table
from benchmarks.peers.reading import read_histories
from benchmarks.peers.systems import SYSTEMS
from benchmarks.report import PAGE, RESULTS, machine, write_between

NUM_CANDIDATES = 99


def data_set(text: str) -> tuple[str, Path]:
    """Return the name and the path of ``NAME=PATH``."""
    name, _, path = text.partition("=")
    if not (name and path):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=PATH")
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{path}: there is no such file")
    return name, Path(path)


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=data_set, action="append", default=[], metavar="NAME=PATH", help="data set; may be repeated"
    )
    parser.add_argument("--environments", type=Path, required=True, help="folder that environments are made in")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--results", type=Path, default=RESULTS / "peers.json")
    parser.add_argument(
        "--tuning", type=float, default=600, help="seconds of processor time for the trials of a system"
    )
    parser.add_argument("--fit", type=float, default=1200, help="the same for the training of its final fit")
    parser.add_argument(
        "--answers", type=float, default=600, help="the same for imports, preparation, lists and scores"
    )
    parser.add_argument(
        "--settings-of", metavar="NAME", help="take the settings that the trials on another data set have chosen"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of each system")
    parser.add_argument("--again", action="store_true", help="measure also what the results have")
    parser.add_argument("--write", action="store_true", help="write the table of RESULTS.md and the picture")
    return parser.parse_args()


def read_found(path: Path) -> dict[str, Any]:
    """Return the results of earlier runs."""
    if not path.exists():
        return {"systems": {}, "data": {}}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def interpreter(key: str, folder: Path, limits: Limits, systems: dict[str, Any]) -> Path | None:
    """Return the interpreter of a system, and note its size and versions; None where it cannot be installed."""
    system = SYSTEMS[key]
    try:
        python = python_of(system, folder)
    except EnvironmentFailedError as error:
        systems[key] = {"failed": str(error)[:300]}
        return None
    if "bytes" not in systems.get(key, {}):
        systems[key] = {"bytes": installed_bytes(python), "versions": versions(system, python)}
        if system.environment is None:
            systems[key]["compile_seconds"] = warm_up(system, python, folder / "jobs" / "warm" / key, limits)
    return python


def main() -> None:
    """Run the command line."""
    options = parse()
    limits = Limits(options.tuning, options.fit, options.answers, options.threads)
    found = read_found(options.results)
    for name, path in options.data:
        everything = read_histories(path)
        asked = questions(everything, NUM_CANDIDATES, seed=0)
        data = found["data"].setdefault(name, {"results": {}})
        data["users"], data["items"] = everything.num_users, everything.num_items
        data["interactions"] = len(everything.items)
        for key in options.systems:
            if key in data["results"] and not options.again:
                continue
            start, system = time.perf_counter(), SYSTEMS[key]
            if options.settings_of:
                settings = found["data"][options.settings_of]["results"][key]["settings"]
                system = replace(system, trials=(settings,))
            python = interpreter(key, options.environments, limits, found["systems"])
            if python is None:
                continue
            result = measure(system, python, asked, options.environments / "jobs" / name / key, limits)
            result |= {"limits": asdict(limits), "date": time.strftime("%Y-%m-%d"), "load": os.getloadavg()[0]}
            if options.settings_of:
                result["settings_of"] = options.settings_of
            data["results"][key] = result
            found |= machine()
            options.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            shown = result.get("failed") or {label: round(value, 4) for label, value in result["metrics"].items()}
            print(f"{name} {SYSTEMS[key].label}: {shown} ({time.perf_counter() - start:.0f} s)", flush=True)
    print("\n".join(table(found)))
    if options.write:
        write_between(PAGE, "peers", "\n".join(table(found)))
        draw(found, RESULTS / "peers.svg")


if __name__ == "__main__":
    main()
