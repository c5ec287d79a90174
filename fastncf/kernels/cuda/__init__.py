"""Kernels for CUDA devices, written in Triton.

Triton is not there on every machine: modules are imported where they are used, behind
:func:`fastncf.device.triton_works`. With ``TRITON_INTERPRET=1`` set before the import they run on CPU tensors too.
"""
