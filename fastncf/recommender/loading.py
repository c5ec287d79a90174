"""A fitted model read from a folder, with checks before anything is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastncf.accelerators import may_have_device
from fastncf.config import require_device_name, require_flag, show
from fastncf.data.titles import read_titles
from fastncf.errors import ConfigError, DataError
from fastncf.kernels.cpu.factors import Factors
from fastncf.memory import require_torch
from fastncf.models.factored import FORMS, as_module, dim_of_factors
from fastncf.numpy_errors import with_usual_errors
from fastncf.persistence.arrays import require_finite
from fastncf.persistence.description import Fields, read_fields
from fastncf.persistence.encoder import split_encoder
from fastncf.persistence.folder import DESCRIPTION, FORMAT, read_folder
from fastncf.persistence.plain import UnexpectedError
from fastncf.persistence.pretrained import split_pretrained
from fastncf.processes import use_one_torch_thread_after_fork
from fastncf.recommender.fitted import trained_arrays
from fastncf.recommender.saving import require_folder
from fastncf.recommender.whole import Recommender

if TYPE_CHECKING:
    from torch import nn


@with_usual_errors
def load(
    directory: str | Path,
    *,
    model: "nn.Module | None" = None,
    device: str = "cpu",
    titles: Any = None,
    verify: bool = True,
) -> Recommender:
    """Read what :meth:`Recommender.save` wrote, in this version or an older one.

    Everything is checked before it is used: the checksums of the files, the types, shapes and ranges of all that they
    hold, and whether the parameters fit the model. No code of the folder is run.

    Args:
        directory: the folder.
        model: an untrained module of the same shape, for a fit whose model was a module of the user's own.
        device: where the model goes; ``auto`` is CUDA where it is available.
        titles: titles of the items in place of those that were saved, see :meth:`Recommender.recommend`.
        verify: whether to compare the SHA-256 of each file with what was saved. Without it a load takes about half the
            time, and a flipped bit may go unnoticed; types, shapes and ranges are checked all the same.

    Raises:
        DataNotFoundError: there is no such folder, or no model in it; or no such file of titles.
        DataError: a file is damaged, or was written by a newer version.
        ConfigError: the model was a module of the user's own and none is given; ``model`` is no module; ``verify`` is
            no truth value; or ``device`` is no name.
        DeviceError: the device is not available.
    """
    require_folder(directory)
    device = require_device_name(device)
    if model is not None:
        require_torch("load: a module of your own")
        from torch import nn

        if not isinstance(model, nn.Module):
            hint = ", an object and not the class itself" if isinstance(model, type) else ""
            raise ConfigError(f"load: model={show(model)}: expected an nn.Module{hint}")
    use_one_torch_thread_after_fork()
    folder = Path(directory)
    saved = read_folder(folder, verify=require_flag("verify", verify))
    try:
        class_name, extra_state, fields = read_fields(saved.description, saved.data, model, FORMAT)
    except (UnexpectedError, ConfigError) as error:
        raise DataError(
            f"{folder}: {DESCRIPTION} is not as expected ({error!s:.300}); "
            f"expected a folder as save() wrote it, in this version or an older one"
        ) from None
    plan, num_items = fields["plan"], len(fields["items"])
    parameters, encoder, pretrained = saved.parameters, None, None
    try:
        if plan.is_pretrained:
            first = plan.stages[0]
            parameters, pretrained = split_pretrained(
                parameters, num_items, dim_of_factors(first), has_histories=first.history != "none"
            )
        elif model is None:
            parameters, encoder = split_encoder(parameters, num_items, dim_of_factors(plan.final))
    except UnexpectedError as error:
        raise DataError(
            f"{folder}: the encoder of histories does not fit the model ({error!s:.300}); expected what save() wrote"
        ) from None
    state = {**parameters, **extra_state}
    try:
        if model is None:
            trained = _registered_model(fields, class_name, state, folder)
        else:
            trained = _with_parameters(model, state)
        require_finite(trained_arrays(trained))
    except UnexpectedError as error:
        raise DataError(
            f"{folder}: the parameters do not fit the model ({error!s:.300}); expected those that save() wrote"
        ) from None
    trained = _on_device(trained, device, fields)
    recommender = Recommender(trained=trained, **fields, encoder=encoder, pretrained=pretrained)
    if titles is not None:
        recommender.titles = read_titles(titles, recommender.items)
    return recommender


def _registered_model(fields: Fields, class_name: str, state: Mapping[str, Any], folder: Path) -> "nn.Module | Factors":
    """Return the registered model that was trained; factors where its parameters are.

    Raises:
        ConfigError: the model is not registered.
        UnexpectedError: the parameters have other names, shapes or dtypes than those of the model.
    """
    from fastncf import models

    stage, num_users, num_items = fields["plan"].final, len(fields["users"]), len(fields["items"])
    form = FORMS.get(stage.model)
    if form is not None and class_name == form.class_name:
        _require_forms(state, form.forms(stage.dim, num_users, num_items))
        require_finite(state)
        if (factors := form.from_state(state, num_users)) is not None:
            return factors
    require_torch(f"load: a saved {stage.model!r:.80}")
    if stage.model not in models.names() or models.get(stage.model).__name__ != class_name:
        raise ConfigError(
            f"{folder}: its model is a {class_name!r:.80} of the user's own; expected fastncf.load() from Python with "
            f"such a module as its argument model"
        )
    is_own = not models.get(stage.model).__module__.startswith(f"{models.__name__}.")
    try:
        forms = models.parameter_forms(stage, num_users, num_items)
    except Exception as error:  # whatever a constructor raises for sizes that no fit can have had
        if not is_own:
            raise UnexpectedError(f"it cannot be built: {str(error)[:200]}") from None
    else:
        _require_forms(state, forms)
    if not is_own:
        # buffers as well: a module of the user's own may hold infinities in a mask
        require_finite(state)
    if is_own:
        return _with_parameters(models.build(stage, num_users, num_items, np.zeros(num_items, dtype=np.int64)), state)
    return _with_parameters(models.build_empty(stage, num_users, num_items), state, is_empty=True)


def _require_forms(parameters: Mapping[str, Any], forms: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Raise an error unless parameters have the names, shapes and dtypes that are expected."""
    tensors = {name for name, value in parameters.items() if hasattr(value, "dtype")}  # others are extra states
    if tensors != set(forms):
        names = ", ".join(sorted(tensors ^ set(forms)))
        raise UnexpectedError(f"missing or unknown: {names:.200}")
    for name, (shape, dtype) in forms.items():
        found = tuple(parameters[name].shape), str(parameters[name].dtype).removeprefix("torch.")
        if found != (shape, dtype):
            raise UnexpectedError(f"{name} has shape {found[0]} and dtype {found[1]}; expected {shape} and {dtype}")


def _with_parameters(model: "nn.Module", state: Mapping[str, Any], *, is_empty: bool = False) -> "nn.Module":
    """Return a module after its state was replaced: parameters and buffers of the same shapes, and extra states.

    Args:
        model: the module.
        state: what it gets.
        is_empty: whether the module has no memory of its own yet, so that it takes that of the state.
    """
    import torch

    try:
        model.load_state_dict(
            {
                name: torch.as_tensor(value, device="cpu") if hasattr(value, "dtype") else value
                for name, value in state.items()
            },
            assign=is_empty,
        )
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UnexpectedError(" ".join(str(error).split())) from None
    return model


def _on_device(trained: "nn.Module | Factors", device: str, fields: Fields) -> "nn.Module | Factors":
    """Return a model in evaluation mode on a device; factors stay what they are on a CPU, without importing torch."""
    if isinstance(trained, Factors):
        if device == "cpu" or (device == "auto" and not may_have_device()):
            return trained
        require_torch(f"device={show(device)}")
        module = as_module(fields["plan"].final.model, trained, fields["split"].item_weights())
    else:
        module = trained
    from fastncf.device import find_device

    return module.to(find_device(device)).eval()
