"""Kernels for CPUs, compiled by Numba: arrays in, arrays out; a test compares each with a naive version."""

import os

from fastncf.errors import ConfigError

try:
    import numba
except Exception as error:  # Numba reads its variables when it is imported
    given = ", ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_"))
    if not given:
        raise
    raise ConfigError(
        f"{given:.200}: Numba cannot be imported with these variables ({error!s:.200}); expected: values that Numba "
        f"documents, or none of them"
    ) from None
if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ConfigError(
        "NUMBA_DISABLE_JIT: the kernels of fastncf are compiled and do not run as Python; expected: 0, or no such "
        "variable"
    )
