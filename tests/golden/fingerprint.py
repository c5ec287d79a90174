"""Description of a machine and its libraries by what the last bits of floating-point results depend on."""

import hashlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import llvmlite.binding as llvm
import numpy as np
import torch

Needs = Literal["integers", "numba", "torch", "triton"]
_PACKAGES = ("numpy", "numba", "llvmlite", "polars", "torch", "triton")
_FEATURES = ("avx", "avx2", "fma", "avx512f", "avx512bf16", "avx512fp16", "amx-bf16", "sse4a")  # sse4a: AMD's alone
_BY_NUMBA = ("machine", "features", "python", "libc", "numpy", "numba", "llvmlite", "polars")
_DEPENDS: dict[Needs, tuple[str, ...]] = {
    "integers": (),
    "numba": _BY_NUMBA,
    "torch": (*_BY_NUMBA, "torch", "torch_vectors"),
    "triton": (*_BY_NUMBA, "torch", "torch_vectors", "triton", "numpy_products"),
}
"""Keys of :func:`fingerprint` that a result depends on: integers are the same everywhere."""


def fingerprint() -> dict[str, Any]:
    """Return architecture, vector instructions and versions of this machine."""
    features = llvm.get_host_cpu_features()
    return {
        "machine": platform.machine(),
        "features": [name for name in _FEATURES if features.get(name)],
        "python": ".".join(map(str, sys.version_info[:2])),
        "libc": " ".join(platform.libc_ver()),
        **{name: _version(name) for name in _PACKAGES},
        "torch_vectors": torch.backends.cpu.get_cpu_capability(),
        "numpy_products": _digest_of_products(),
    }


def why_not(needs: Needs, recorded: dict[str, Any]) -> str | None:
    """Return why a result cannot be compared here with one that was recorded elsewhere, or None where it can."""
    if needs == "triton" and (_version("triton") is None or os.environ.get("TRITON_INTERPRET") != "1"):
        return "needs Triton's interpreter, which runs where Triton is installed and no CUDA device is there"
    here = fingerprint()
    others = [f"{name} {recorded[name]}, here {here[name]}" for name in _DEPENDS[needs] if recorded[name] != here[name]]
    if not others:
        return None
    return (
        f"recorded with {'; '.join(others)}. To compare on this machine, run `python -m tests.golden.record` on the "
        f"commit to compare with, and keep its golden.json"
    )


def _digest_of_products() -> str:
    """Return a digest of products of matrices: NumPy's BLAS has kernels for each processor, and may be told which."""
    generator = np.random.Generator(np.random.Philox(key=1))
    a, b = (generator.standard_normal(shape, dtype=np.float32) for shape in ((48, 80), (80, 32)))
    return hashlib.sha256(np.matmul(a, b).tobytes()).hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None
