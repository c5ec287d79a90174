"""Shared parts of the tests of saved models: small models, their state, and folders with checksums renewed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

import fastncf
from fastncf import files
from fastncf.kernels.cpu.factors import Factors
from fastncf.persistence.plain import canonical_json
from tests.conftest import checkerboard

BEFORE = Path(__file__).parents[1] / "golden" / "saved"
"""Folder of models of older formats."""

MODELS = {
    "mf": {"dim": 4, "epochs": 1, "validation": True, "history": "sequence"},
    "neumf": {"dim": 4, "layers": (8, 4), "epochs": 1, "optimizer": "adam"},
    "popularity": {},
}


def fitted(model: str = "mf", hidden: int = 2) -> fastncf.Recommender:
    """Return a recommender of a few users and items, fitted on the CPU; ``hidden`` makes other data."""
    data = checkerboard(num_users=12, num_items=14, hidden=hidden)
    return fastncf.fit(data, model=model, num_candidates=5, device="cpu", **MODELS[model])


def arrays_of(rec: fastncf.Recommender) -> dict[str, np.ndarray]:
    """Return the parameters and the arrays of the split by name."""
    if isinstance(rec.trained, Factors):
        parameters = dict(zip(("user", "item", "user_bias", "item_bias"), rec.trained, strict=True))
    else:
        parameters = {name: tensor.numpy() for name, tensor in rec.trained.state_dict().items()}
    names = ("indptr", "indices", "test_item", "validation_item", "test_candidates")
    order = {} if rec.order is None else {"order": rec.order}
    split = {name: getattr(rec.split, name) for name in names if getattr(rec.split, name) is not None}
    return split | order | parameters


def is_same(one: fastncf.Recommender, other: fastncf.Recommender) -> bool:
    """Return whether two recommenders have the same state."""
    names = ("config", "plan", "metrics", "protocol", "data", "seconds", "training_log", "found", "num_kept")
    arrays, others = arrays_of(one), arrays_of(other)
    return (
        all(getattr(one, name) == getattr(other, name) for name in names)
        and all(getattr(one, name).ids.equals(getattr(other, name).ids) for name in ("users", "items"))
        and arrays.keys() == others.keys()
        and all(array.tobytes() == others[name].tobytes() for name, array in arrays.items())
        and (one.split.holdout, one.split.num_items) == (other.split.holdout, other.split.num_items)
    )


def file_of(folder: Path, role: str) -> Path:
    """Return the file of the parameters (``model``) or of the split (``data``)."""
    return next(folder.glob(f"fastncf-{role}-*.safetensors"))


def description_of(folder: Path) -> Any:
    """Return the description of a saved model."""
    return json.loads((folder / "fastncf.json").read_text(encoding="utf-8"))


def renew_checksums(folder: Path, description: Any) -> None:
    """Write a description whose checksums are right, as somebody would who wants to deceive the reader."""
    if isinstance(description, dict):
        description.pop("sha256", None)
        for entry in description["files"].values() if isinstance(description.get("files"), dict) else ():
            if isinstance(entry, dict) and isinstance(entry.get("name"), str) and (folder / entry["name"]).is_file():
                content = (folder / entry["name"]).read_bytes()
                entry |= {"bytes": len(content), "sha256": files.sha256(content)}
        description["sha256"] = files.sha256(canonical_json(description))
    (folder / "fastncf.json").write_text(json.dumps(description), encoding="utf-8")


def change_description(folder: Path, change: Callable[[Any], object]) -> None:
    """Change a description, and renew its checksum."""
    description = description_of(folder)
    change(description)
    renew_checksums(folder, description)


def change_arrays(folder: Path, role: str, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change the arrays of a file, and renew the checksums."""
    path = file_of(folder, role)
    arrays = {name: array.copy() for name, array in load(path.read_bytes()).items()}
    change(arrays)
    path.write_bytes(save({name: np.asarray(array, order="C") for name, array in arrays.items()}))
    renew_checksums(folder, description_of(folder))


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return the content of each file below a folder by its path; None for a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
