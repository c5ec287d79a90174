"""Measure what a search for settings brings: ``python -m benchmarks.tuned beauty=beauty.txt --minutes 10 --write``.

For each file the default is fitted, settings are searched for some minutes, and a model is fitted with the best ones.
The test items are looked at once, when both are compared user by user. A ``.txt`` file has a line for each user,
``user item item ...``, in the order of time; other files are whatever ``fastncf fit`` reads. ``--write`` writes
``results/tuned.json``, a picture for each file, and the table of ``RESULTS.md``; files that are not named stay.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastncf
from benchmarks.full_ranking import read_sequences
from benchmarks.report import RESULTS, machine, publish

METRIC = "full/ndcg@10"


def measure(path: Path, minutes: float, study: Path | None, picture: Path | None) -> dict[str, Any]:
    """Return what the default and the best settings of a search reach, and how they differ.

    Args:
        path: interactions.
        minutes: budget of the search.
        study: file that keeps the trials.
        picture: SVG file of what mattered.
    """
    source: Any = read_sequences(path) if path.suffix == ".txt" else path
    default = fastncf.fit(source, full_ranking=True, progress=False)
    load, processor = os.getloadavg()[0], time.process_time()
    found = fastncf.tune(source, minutes=minutes, study=study)
    processor = time.process_time() - processor
    settings = found.config.to_dict() | {"full_ranking": True}
    tuned = fastncf.fit(source, config=fastncf.Config.from_dict(settings), progress=False)
    if picture is not None and found.importance:
        found.write_picture(picture)
    compared = fastncf.compare(tuned, default, names=["tuned", "default"])
    return {
        "users": compared.num_users,
        "minutes": minutes,
        "processor_minutes": processor / 60,
        "load": [load, os.getloadavg()[0]],
        "trials": found.trials["state"].value_counts().to_dicts(),
        "validation": {"default": found.default_ndcg, "tuned": found.ndcg},
        "settings": found.to_toml(),
        "importance": found.importance,
        "models": compared.metrics().to_dicts(),
        "differences": compared.differences().to_dicts(),
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    yield f"One run on {found['date']}: {found['machine']}. NDCG@10 in the whole catalogue."
    yield ""
    yield (
        "| file | minutes, of processor time | trials | held out for the search: default, tuned | "
        "test: default ± error | test: tuned | difference | p |"
    )
    yield "|" + "---|" * 8
    for name, row in found["files"].items():
        models = {model["model"]: model for model in row["models"]}
        difference = next(one for one in row["differences"] if one["metric"] == METRIC)
        counts = ", ".join(f"{one['count']} {one['state']}" for one in row["trials"])
        validation = ", ".join(f"{row['validation'][model] or 0:.4f}" for model in ("default", "tuned"))
        yield (
            f"| `{name}` | {row['minutes']:g}, {row['processor_minutes']:.1f} | {counts} | {validation} | "
            f"{models['default'][METRIC]:.4f} ± {models['default'][METRIC + ' error']:.4f} | "
            f"{models['tuned'][METRIC]:.4f} | {difference['difference']:+.4f} "
            f"({difference['low']:+.4f} to {difference['high']:+.4f}) | {difference['p']:.4f} |"
        )
    for name, row in found["files"].items():
        settings = ", ".join(row["settings"].strip().splitlines())
        mattered = ", ".join(f"{setting} {share:.0%}" for setting, share in row["importance"].items())
        yield ""
        yield f"`{name}`: found `{settings}`. What mattered: {mattered or 'too few trials to tell'}."


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--studies", type=Path, help="folder that keeps the trials")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    place = RESULTS / "tuned.json"
    earlier = json.loads(place.read_text(encoding="utf-8"))["files"] if place.exists() else {}
    found: dict[str, Any] = {**machine("optuna"), "files": earlier}
    for name, _, path in (text.partition("=") for text in options.files):
        study = None if options.studies is None else options.studies / f"{name}.log"
        picture = RESULTS / f"tuned-{name}.svg" if options.write else None
        found["files"][name] = measure(Path(path), options.minutes, study, picture)
        print("\n".join(table(found)), flush=True)
    if options.write:
        publish("tuned", found, table(found))


if __name__ == "__main__":
    main()
