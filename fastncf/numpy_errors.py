"""NumPy's floating-point error handling, which callers may have changed for the whole process."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def usual_errors() -> np.errstate:
    """Return NumPy's own settings as a context manager, whatever ``np.seterr`` has set."""
    return np.errstate(divide="warn", over="warn", invalid="warn", under="ignore")


def with_usual_errors(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return a function that runs under :func:`usual_errors`; it adds a frame to the stack, which warnings count."""

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with usual_errors():
            return function(*args, **kwargs)

    return run
