"""A model as an ONNX file, which runs without fastncf and torch, and its ids beside it."""

import copy
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from fastncf.data.ids import Vocabulary
from fastncf.data.replaced_file import replaced_files
from fastncf.errors import ConfigError, FastNCFError
from fastncf.processes import require_polars_threads

if TYPE_CHECKING:
    from torch import nn

SUFFIX = ".onnx"

_PACKAGES = "onnx", "onnxscript"
_LOGGERS = "torch.onnx", "onnxscript", "onnx_ir"
_MOST_BYTES = (2 << 30) - (1 << 20)
_EXAMPLES = 2  # pairs; torch takes a size of 1 for one that is always 1
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


def export_onnx(path: Path, model: "nn.Module", users: Vocabulary, items: Vocabulary) -> list[Path]:
    """Write a model and the ids of its users and items.

    The file has the inputs ``user`` and ``item``, (n,) int64 for any n, and the output ``score``, (n,) float32. Both
    inputs are positions in the files of ids.

    Args:
        path: a file whose name ends in ``.onnx``. For ``model.onnx`` the ids are written to ``model.users.parquet`` and
            ``model.items.parquet``, with columns ``user`` or ``item`` and ``index``. Files that are there are
            replaced, see :func:`~fastncf.data.replaced_file.replaced_files`.
        model: scores (user ids, item ids); it stays as it is.
        users: ids of the U users.
        items: ids of the I items.

    Returns:
        The paths of the three files.

    Raises:
        FastNCFError: the extra ``onnx`` is not installed.
        ConfigError: the model computes what torch cannot write as ONNX, or does not fit a file.
        ForkError: this process was forked from one that had used Polars.
        DataNotFoundError: the folder of the file does not exist.
        DataError: a file cannot be written.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise FastNCFError(
            f"writing ONNX needs the package {missing[0]}, which is not installed; expected: pip install "
            f"'fastncf[onnx]'"
        )
    require_polars_threads("writing the ids to Parquet")
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > _MOST_BYTES:
        raise ConfigError(
            f"export: {path}: an ONNX file holds 2 GB, and the parameters have {size / 1e9:.1f}; expected a smaller "
            f"model, or vectors as Parquet or NPZ"
        )
    written = [path, *(path.with_name(f"{path.stem}.{ids.noun}s.parquet") for ids in (users, items))]
    with replaced_files() as draft_of:
        draft = draft_of(path)  # first, so that a folder that is missing is found before the work
        _program(model).save(draft, external_data=False)
        for target, ids in zip(written[1:], (users, items), strict=True):
            pl.DataFrame({ids.noun: ids.ids, "index": range(len(ids))}).write_parquet(draft_of(target))
    return written


def _program(model: "nn.Module") -> Any:
    """Return torch's ONNX program of a model, for any number of pairs.

    Raises:
        ConfigError: torch cannot translate it.
    """
    import torch

    from fastncf.evaluation.scoring import device_of, evaluating

    cpu = torch.device("cpu")
    if device_of(model) != cpu:
        model = copy.deepcopy(model).to(cpu)
    user, item = (torch.zeros(_EXAMPLES, dtype=torch.int64, device=cpu) for _ in range(2))  # one would be one input
    pairs = torch.export.Dim("pairs")
    try:
        with cpu, evaluating(model, cpu), _silence():  # whatever device the caller has set for new tensors
            program = torch.onnx.export(
                _scores_of(model),
                (user, item),
                input_names=["user", "item"],
                output_names=["score"],
                dynamic_shapes=({0: pairs}, {0: pairs}),
                dynamo=True,
                verbose=False,
            )
    except FastNCFError:
        raise
    except Exception as error:  # whatever torch raises for an operation that it does not know
        raise ConfigError(
            f"export: {type(model).__name__:.80} cannot be written as ONNX ({_reason(error)}); expected operations "
            f"that torch.onnx.export knows, whose control flow does not depend on the ids"
        ) from None
    return program


def _scores_of(model: "nn.Module") -> "nn.Module":
    """Return a module that calls another one with the ids that it is trained with, and gives scores (n,) float32."""
    from torch import Tensor, nn

    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            scores: Tensor = self.model(user.int(), item.int())
            return scores.reshape(-1).float()

    return Scores().eval()


@contextmanager
def _silence() -> Iterator[None]:
    """Leave out warnings and the log of torch's exporter in the block: they are about its own insides."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return the first line of the error with which a chain of errors has begun."""
    while (former := error.__cause__ or error.__context__) is not None:
        error = former
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"[:200]
