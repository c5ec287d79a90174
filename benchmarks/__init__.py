"""Benchmarks of fastncf; not part of the installed package."""
