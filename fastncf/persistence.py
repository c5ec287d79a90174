"""Reading what :meth:`fastncf.recommender.Recommender.save` wrote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fastncf.config import Config
from fastncf.data.ids import Vocabulary
from fastncf.data.split import Split
from fastncf.device import find_device
from fastncf.errors import ConfigError, DataError, DataNotFoundError
from fastncf.models import build
from fastncf.recommender import DATA, DESCRIPTION, FORMAT, PARAMETERS, Recommender
from fastncf.trainers.neural import stage_of


def load(directory: str | Path, *, model: nn.Module | None = None, device: str = "cpu") -> Recommender:
    """Read what :meth:`Recommender.save` wrote.

    Args:
        directory: the folder.
        model: an untrained module of the same shape, for a fit whose model was a module of your own.
        device: where the model goes; ``auto`` is CUDA where there is one.

    Raises:
        DataNotFoundError: there is no such folder, or no model in it.
        DataError: a file is damaged, or was written by a newer version.
        ConfigError: the model was a module of your own and none is given.
        DeviceError: the device is not available.
    """
    folder = Path(directory)
    if not (folder / DESCRIPTION).exists():
        raise DataNotFoundError(f"{folder}: holds no fastncf model (no {DESCRIPTION})")
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        data = {name: tensor.numpy() for name, tensor in load_file(folder / DATA).items()}
        parameters = load_file(folder / PARAMETERS)
    except (json.JSONDecodeError, SafetensorError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder}: a file is missing or damaged ({error})") from None
    try:
        if description["format"] != FORMAT:
            raise DataError(f"{folder}: has format {description['format']!r}; this version reads format {FORMAT}")
        name, fitted = description["model_class"], _described(description, data)
    except (KeyError, TypeError, AttributeError, ConfigError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{folder}: {DESCRIPTION} is not as expected ({type(error).__name__}: {error}); "
            f"accepted: a folder as save() wrote it, by this version or an older one"
        ) from None
    if model is None:
        model = build(stage_of(fitted.config), len(fitted.users), len(fitted.items), torch.zeros(len(fitted.items)))
        if type(model).__name__ != name:
            raise ConfigError(f"{folder}: its model is a {name} of your own; pass model= with such a module")
    try:
        model.load_state_dict(parameters)
    except RuntimeError as error:
        raise DataError(f"{folder}: the parameters do not fit the model ({str(error).splitlines()[0]})") from None
    return replace(fitted, trained=model.to(find_device(device)).eval())


def _described(description: dict[str, Any], data: dict[str, np.ndarray]) -> Recommender:
    """A recommender by what was saved, its model apart."""
    users, items = (
        Vocabulary(
            pl.Series(noun, description[f"{noun}s"]["ids"], dtype=getattr(pl, description[f"{noun}s"]["dtype"])), noun
        )
        for noun in ("user", "item")
    )
    counts = description["data"]
    split = Split(
        num_items=len(items),
        indptr=data["indptr"],
        indices=data["indices"],
        test_item=data["test_item"],
        validation_item=data["validation_item"],
        num_duplicates=counts["num_duplicates"],
        num_users_all_seen=counts["num_users_all_seen"],
        num_users_too_short=counts["num_users_too_short"],
        holdout=description["rule"],
        test_candidates=data.get("test_candidates"),
    )
    return Recommender(
        trained=nn.Module(),
        config=Config.from_dict(description["config"]),
        users=users,
        items=items,
        split=split,
        metrics=description["metrics"],
        protocol=description["protocol"],
        data=counts,
        seconds=description["seconds"],
        history=description["history"],
        found=description["found"],
    )
