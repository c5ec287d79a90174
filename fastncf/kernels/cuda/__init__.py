"""Kernels for CUDA devices, written in Triton: tensors in, tensors out.

Not every machine has Triton, so that these modules are imported where they are used, after
:func:`fastncf.device.triton_works` has returned True. With ``TRITON_INTERPRET=1`` in the environment before Triton
is imported, the kernels also run on CPU tensors, which is how the tests compare them with plain torch.

Names: a pointer to a tensor ends in ``_ptr`` and stands for a contiguous tensor; the docstring of a kernel gives
    shapes.
Names in capitals are compile-time constants: each of their values is compiled by itself.
"""
