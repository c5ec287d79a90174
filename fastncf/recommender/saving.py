"""Writing of a fitted model to a folder."""

import os
from pathlib import Path
from typing import Any

from fastncf.config import show
from fastncf.errors import ConfigError, DataError
from fastncf.kernels.cpu.factors import Factors
from fastncf.models.factored import FORMS
from fastncf.numpy_errors import with_usual_errors
from fastncf.persistence.arrays import require_finite
from fastncf.persistence.description import Fields, describe, read_fields
from fastncf.persistence.encoder import encoder_arrays
from fastncf.persistence.folder import FORMAT, Saved, write_folder
from fastncf.persistence.plain import UnexpectedError, dump_json, parse_json
from fastncf.persistence.pretrained import pretrained_arrays
from fastncf.processes import use_one_torch_thread_after_fork
from fastncf.recommender.fitted import FittedModel, trained_arrays


class Saving(FittedModel):
    """Writing of a fitted model."""

    @with_usual_errors
    def save(self, directory: str | Path) -> None:
        """Write the model, its plan, its data and its ids to a folder: safetensors and JSON.

        The folder holds the older model or the new one at every moment, also for concurrent readers, and after a kill
        or a loss of power. Other files in it stay as they are.

        Args:
            directory: a new or empty folder, or one with an older model, which is replaced. Links are followed, and
                hidden files do not count.

        Raises:
            DataError: the folder holds something other than a fastncf model, or cannot be written; or the model holds
                what :func:`load` would refuse, such as parameters that are not finite. An older model stays.
        """
        require_folder(directory)
        use_one_torch_thread_after_fork()
        parameters: dict[str, Any]
        extra_state: dict[str, Any] = {}
        if isinstance(self.trained, Factors):
            form = FORMS[self.plan.final.model]
            parameters, class_name = form.to_state(self.trained, self.split.item_weights()), form.class_name
        else:
            from fastncf.models.state import savable_state

            (parameters, extra_state), class_name = savable_state(self.trained), type(self.trained).__name__
        parameters |= encoder_arrays(self.encoder) | pretrained_arrays(self.pretrained)
        fields = Fields(**{name: getattr(self, name) for name in Fields.__annotations__})  # type: ignore[typeddict-item]
        try:
            require_finite(trained_arrays(self.trained))
            description, data = describe(class_name, extra_state, fields)
            read_fields(parse_json(dump_json({"format": FORMAT, **description}).encode("utf-8")), data, None, FORMAT)
        except (UnexpectedError, ConfigError) as error:
            raise DataError(
                f"{directory}: nothing is saved, since {error!s:.300}; expected a model that fit() made"
            ) from None
        write_folder(directory, Saved(description, data, parameters))


def require_folder(directory: Any) -> None:
    """Raise a ConfigError for what is no path."""
    if not isinstance(directory, str | os.PathLike):
        raise ConfigError(f"directory={show(directory)}: expected the path of a folder")
