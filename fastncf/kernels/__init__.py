"""Compiled kernels for CPUs (Numba) and CUDA devices (Triton): arrays in, arrays out."""
