"""Kernels for CPUs, compiled by Numba: arrays in, arrays out; a test compares each with a naive version."""
