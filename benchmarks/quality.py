"""Ranking quality beside what others print: ``python -m benchmarks.quality MOVIELENS``.

MOVIELENS is a folder that holds ``ml-1m-ncf`` (the three files of He et al. 2017) and ``ml-100k/u.data``. Every model
is fitted with its defaults, once for each seed, and looked at once on the test items. ``--write`` writes
``results/quality.json`` and the README's table.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastncf
from benchmarks.report import README, RESULTS, machine, write_between

OURS: dict[str, dict[str, Any]] = {
    "`mf`, the default": {},
    '`mf`, `budget="fast"`': {"budget": "fast"},
    '`mf`, `history="all"`': {"history": "all"},
    '`mf`, `history="none"`': {"history": "none"},
    "`popularity`": {"model": "popularity"},
}
DACREMA = "Ferrari Dacrema et al. 2021"
OTHERS: dict[str, list[tuple[str, float, float, str]]] = {
    "MovieLens-1M, He et al.'s test items and 99 negatives": [
        ("MF with a dot product, 192 dimensions", 0.7294, 0.4523, "Rendle et al. 2020"),
        ("NeuMF, pre-trained", 0.730, 0.447, "He et al. 2017, as a reproduction quotes it"),
        ("implicit's ALS, tuned", 0.7172, 0.4439, "the table of training times, 5 seeds"),
        ("EASE, lambda 1000", 0.7182, 0.4511, "measured, deterministic"),
        ("SLIM", 0.7161, 0.4470, DACREMA),
        ("NeuMF, tuned by others", 0.7120, 0.4369, DACREMA),
        ("PureSVD", 0.6896, 0.4294, DACREMA),
        ("RP3beta", 0.6715, 0.3991, DACREMA),
        ("UserKNN", 0.6705, 0.3908, DACREMA),
        ("ItemKNN", 0.6596, 0.3900, DACREMA),
    ],
    "MovieLens-100K, latest held out, 99 distinct uniform negatives": [
        ("implicit's ALS", 0.672, 0.386, "measured"),
        ("EASE", 0.671, 0.392, "measured"),
        ("RecBole 1.2.1's NeuMF, 5 epochs", 0.625, 0.352, "measured"),
    ],
}


def sources(folder: Path) -> list[dict[str, Any]]:
    """What is fitted for each of the protocols of ``OTHERS``."""
    paper = folder / "ml-1m-ncf"
    given = {"test": paper / "ml-1m.test.rating", "candidates": paper / "ml-1m.test.negative"}
    return [{"train": paper / "ml-1m.train.rating", **given}, {"train": folder / "ml-100k" / "u.data"}]


def measure(source: dict[str, Any], seeds: int) -> list[dict[str, Any]]:
    """HR@10, NDCG@10 and seconds of training of each model and seed."""
    rows = []
    for name, settings in OURS.items():
        fits = [fastncf.fit(**source, seed=seed, **settings) for seed in range(seeds)]
        for fitted in fits:
            assert fitted.metrics["ndcg@10"] <= fitted.metrics["hr@10"] <= 1
        rows.append(
            {
                "model": name,
                "hr": [fitted.metrics["hr@10"] for fitted in fits],
                "ndcg": [fitted.metrics["ndcg@10"] for fitted in fits],
                "seconds": [fitted.seconds["train"] for fitted in fits],
                "users": len(fits[0].users),
            }
        )
        print(rows[-1], flush=True)
    return rows


def table(found: dict[str, Any]) -> Iterator[str]:
    """The README's lines: within a protocol the best first."""
    yield f"One run on {found['date']}: {found['machine']}; HR@10 ± its standard error over users, NDCG@10."
    yield ""
    yield "| protocol | system | HR@10 | NDCG@10 | source |"
    yield "|---|---|---|---|---|"
    for protocol, rows in found["quality"].items():
        lines = [(hr, f"{name} | {hr:.4f} | {ndcg:.4f} | {source} |") for name, hr, ndcg, source in OTHERS[protocol]]
        for row in rows:
            hr, ndcg, seconds = (float(np.mean(row[kind])) for kind in ("hr", "ndcg", "seconds"))
            error = math.sqrt(hr * (1 - hr) / row["users"])
            source = f"{len(row['hr'])} seeds, {seconds:.1f} s of training each"
            lines.append((hr, f"fastncf {row['model']} | **{hr:.4f}** ± {error:.3f} | **{ndcg:.4f}** | {source} |"))
        for at, (_, line) in enumerate(sorted(lines, reverse=True)):
            yield f"| {protocol if at == 0 else ''} | {line}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("movielens", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    measured = [measure(source, options.seeds) for source in sources(options.movielens)]
    found = {**machine(), "quality": dict(zip(OTHERS, measured, strict=True))}
    print("\n".join(table(found)))
    if options.write:
        (RESULTS / "quality.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        write_between(README, "quality", "\n".join(table(found)))


if __name__ == "__main__":
    main()
