"""Commands about data sets."""

import sys
from dataclasses import asdict
from typing import Literal

from fastncf.cli.app import Common, Json, PathArgument
from fastncf.cli.output import print_json, print_lines, print_path


def generate(
    path: PathArgument,
    *,
    users: int = 138_493,
    items: int = 26_744,
    interactions: int = 20_000_263,
    seed: int = 0,
    dialect: Literal["grouplens", "kaggle", "parquet"] = "grouplens",
    json: Json = False,
    common: Common | None = None,
) -> None:
    """Write a generated data set with the shape of MovieLens, by default of MovieLens-20M.

    Parameters
    ----------
    path
        File to write.
    users
        Number of users.
    items
        Number of items.
    interactions
        Approximate number of ratings.
    seed
        Determines every rating.
    dialect
        grouplens: CSV with unix times; kaggle: every field quoted, times as dates; parquet.
    """
    from fastncf.data.synthetic import write_synthetic_movielens

    write_synthetic_movielens(path, users, items, interactions, seed=seed, dialect=dialect)
    print_path(path, as_json=json)


def datasets(*, json: Json = False, common: Common | None = None) -> None:
    """List the data sets that ``fit`` and ``plan`` download when they are given the name.

    For each it prints the number of interactions, the size of the archive, whether it is on this machine, and the
    address of the terms of use. A file of the same name in the current folder is read instead.
    """
    from fastncf.data.named import DATASETS, LICENCE, is_cached, locations

    rows = [(dataset, is_cached(name)) for name, dataset in DATASETS.items()]
    server, folder, _ = locations()
    print_lines(f"from {server}, kept in {folder}", file=sys.stderr)
    if json:
        listed = [asdict(dataset) | {"licence": dataset.licence, "is_cached": is_here} for dataset, is_here in rows]
        print_json({"datasets": listed})
        return
    for dataset, is_here in rows:
        size = f"{dataset.num_interactions:>12,} interactions {dataset.num_bytes / 1e6:>7,.1f} MB"
        print_lines(f"{dataset.name:<8}{size}  {'downloaded' if is_here else '':<10}  {dataset.terms}")
    print_lines(f"licence: {LICENCE}")
