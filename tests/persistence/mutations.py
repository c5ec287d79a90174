"""Changes of saved models at random, by accident or on purpose, and what loading makes of them.

``python -m tests.persistence.mutations FIRST COUNT`` tries seeds and prints those that end in something other than a
refusal, an equal model, or, for changes with renewed checksums, a model that can be used; see :mod:`tests.campaigns`.
"""

import atexit
import copy
import functools
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import fastncf
from fastncf.errors import FastNCFError
from tests import campaigns
from tests.persistence.saved import BEFORE, MODELS, change_arrays, description_of, fitted, is_same, renew_checksums

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    1.5,
    -0.5,
    1e308,
    2**31,
    2**40,
    2**63,
    10**30,
    "",
    "x",
    "mf",
    "MF",
    "GMF",
    "gmf",
    "../../x",
    "/etc/passwd",
    "os",
    "\ud800",
    [],
    {},
    [0],
    [[]],
    {"x": 1},
]
NUMBERS = [-(2**31), -2, -1, 0, 1, 7, 9, 10, 11, 12, 13, 100, 2**31 - 1]


def base_folders(target: Path) -> list[Path]:
    """Return folders of small models, those of older formats and one with given candidates among them."""
    for name in MODELS:
        fitted(name).save(target / name)
    fitted("mf", hidden=1).save(target / "other")
    for former in ("given", "popularity", "mlp"):
        shutil.copytree(BEFORE / former, target / f"before-{former}")
        (target / f"before-{former}" / "expected.json").unlink()
    given = fastncf.load(BEFORE / "given")
    given.save(target / "given")
    return sorted(target.iterdir())


def damage(folder: Path, others: list[Path], generator: np.random.Generator) -> str:
    """Change the bytes of a file, or which files there are, as accidents do; return what was done."""
    path = Path(generator.choice(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    kind = generator.choice(
        ["flip", "flip", "flip", "cut", "grow", "zero", "swap", "remove", "empty", "folder", "pipe"]
    )
    at = int(generator.integers(len(content)))
    if kind == "flip":
        content[at] ^= 1 << int(generator.integers(8))
    elif kind == "cut":
        del content[at:]
    elif kind == "grow":
        content += generator.bytes(1 + at)
    elif kind == "zero":
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    elif kind == "swap":
        other = others[int(generator.integers(len(others)))]
        role = path.name.split("-")[1] if path.name.startswith("fastncf-") else path.name
        content = bytearray(next((p.read_bytes() for p in other.iterdir() if role in p.name), b""))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "remove":
        path.write_bytes(b"" if kind == "empty" else content)
    return f"{kind} {path.name} at {at}"


def deceive(folder: Path, others: list[Path], generator: np.random.Generator) -> str:
    """Change a model and renew its checksums, as somebody does who wants to deceive; return what was done."""
    if generator.random() < 0.5:
        description = description_of(folder)
        done = _change_value(description, generator)
        renew_checksums(folder, description)
        return done
    role = str(generator.choice(["model", "data"]))
    if generator.random() < 0.2:
        path = next(path for path in folder.iterdir() if path.name.startswith(f"fastncf-{role}"))
        content = bytearray(path.read_bytes())
        for _ in range(int(generator.integers(1, 4))):
            content[int(generator.integers(len(content)))] = int(generator.integers(256))
        path.write_bytes(content)
        renew_checksums(folder, description_of(folder))
        return f"bytes of {role}"
    done = ""

    def change(arrays: dict[str, np.ndarray]) -> None:
        nonlocal done
        done = _change_array(arrays, generator)

    change_arrays(folder, role, change)
    return f"{role}: {done}"


def _change_value(value: Any, generator: np.random.Generator) -> str:
    """Change a value of a nested description, chosen at random on the way down."""
    path = []
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        if not len(keys):
            return f"nothing at {path}"
        key = keys[int(generator.integers(len(keys)))]
        path.append(key)
        if isinstance(value[key], dict | list) and value[key] and generator.random() < 0.85:
            value = value[key]
            continue
        kind = generator.choice(["replace", "replace", "replace", "remove", "add", "swap"])
        if kind == "remove":
            del value[key]
        elif kind == "add" and isinstance(value, dict):
            value["unknown"] = 1
        elif kind == "swap":
            other = keys[int(generator.integers(len(keys)))]
            value[key], value[other] = copy.deepcopy(value[other]), copy.deepcopy(value[key])
        else:
            value[key] = copy.deepcopy(VALUES[int(generator.integers(len(VALUES)))])
        return f"{kind} at {path}: {str(value)[:80] if kind != 'replace' else value[key]!r:.80}"


def _change_array(arrays: dict[str, np.ndarray], generator: np.random.Generator) -> str:
    """Change an array: its numbers, shape, dtype or name."""
    name = str(generator.choice(sorted(arrays)))
    array = arrays[name]
    kind = generator.choice(
        ["number", "number", "number", "dtype", "cut", "grow", "transpose", "remove", "add", "scalar"]
    )
    if kind == "number" and array.size:
        at = int(generator.integers(array.size))
        floats = [np.nan, np.inf, -np.inf, 1e30]
        values = floats if array.dtype.kind == "f" else NUMBERS
        array.reshape(-1)[at] = values[int(generator.integers(len(values)))]
    elif kind == "dtype":
        dtypes = [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64, np.float16, np.float32, np.float64, bool]
        arrays[name] = np.nan_to_num(array).astype(dtypes[int(generator.integers(len(dtypes)))])
    elif kind == "cut":
        arrays[name] = array[: int(generator.integers(len(array) + 1))] if array.ndim else array
    elif kind == "grow":
        arrays[name] = np.concatenate([array, array[-1:]]) if array.ndim else array
    elif kind == "transpose":
        arrays[name] = array.T if array.ndim > 1 else array.reshape(1, -1)
    elif kind == "remove":
        del arrays[name]
    elif kind == "add":
        arrays["unknown"] = array
    else:
        arrays[name] = array.reshape(-1)[0]
    return f"{kind} {name}"


def use(rec: fastncf.Recommender, folder: Path) -> None:
    """Do everything with a recommender that can be done with one."""
    users, items = rec.users.ids.to_list(), rec.items.ids.to_list()
    calls = (
        lambda: rec.evaluate(),
        lambda: rec.evaluate(num_candidates=3, full_ranking=True),
        lambda: rec.recommend(users, k=3),
        lambda: fastncf.load(folder).refit().recommend(k=3),
        lambda: rec.recommend(users[0], k=1000, exclude_seen=False),
        lambda: rec.similar_items(items, k=3),
        lambda: rec.score(users[:1] * len(items), items),
        lambda: str(rec.plan),
        lambda: rec.save(folder),
    )
    for call in calls:
        try:
            call()
        except (FastNCFError, MemoryError):
            continue


def attempt(seed: int, bases: list[Path]) -> str | None:
    """Change a folder, load it, and use what is loaded; return what is wrong, or None.

    Even seeds damage a folder of the current format; the next odd one does so to any folder, or renews the checksums.
    """
    generator = np.random.default_rng(seed)
    current = [base for base in bases if not base.name.startswith("before-")]
    is_hostile = seed % 2 == 1
    base = (bases if is_hostile else current)[int(generator.integers(len(bases if is_hostile else current)))]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        shutil.copytree(base, folder)
        change = deceive if is_hostile and base in current else damage
        done = f"{base.name}: {change(folder, bases, generator)}"
        try:
            rec = fastncf.load(folder)
        except FastNCFError as error:
            return None if len(str(error)) <= 500 else f"{done}: {len(str(error))} characters"
        except BaseException:
            return f"{done}: {traceback.format_exc()[-600:]}"
        if not is_hostile:
            return None if is_same(rec, fastncf.load(base)) else f"{done}: loaded another model"
        try:
            use(rec, Path(scratch) / "again")
        except BaseException:
            return f"{done}: {traceback.format_exc()[-600:]}"
    return None


@functools.cache
def _bases() -> list[Path]:
    """Return the folders that are changed, which are there until the process ends."""
    scratch = tempfile.TemporaryDirectory()
    atexit.register(scratch.cleanup)
    return base_folders(Path(scratch.name))


def try_one(seed: int, folder: Path) -> str:
    """Try a seed; return its kind.

    Raises:
        AssertionError: something is wrong.
    """
    warnings.simplefilter("ignore")
    wrong = attempt(seed, _bases())
    assert wrong is None, wrong
    return "changed on purpose" if seed % 2 else "damaged"


if __name__ == "__main__":
    sys.exit(campaigns.main("tests.persistence.mutations", try_one))
