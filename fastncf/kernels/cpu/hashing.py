"""Integer hashes in compiled code: the functions of :mod:`fastncf.rng`, and a keyed hash of 32 bits."""

import numpy as np
from numba import types
from numba.extending import intrinsic

from fastncf.kernels.cpu.compiling import njit
from fastncf.rng import LOWBIAS_1, LOWBIAS_2, MIX_1, MIX_2


@njit(inline="always")
def mix64(x):
    """Return :func:`fastncf.rng.mix` of a uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(MIX_2)
    return x ^ (x >> np.uint64(31))


@intrinsic
def hash32(typingctx, position, first, second):
    """Return the hash of a position under a key of two halves, all uint32.

    Wellons' "lowbias32" (2018), with one half of the key XORed to the position before it and the other half added
    between its two rounds. For one key it is a bijection, so that the chance that two positions have the same hash is 0
    and not 2**-32. It is written for LLVM, since Numba would compute in 64 bits, with half as many lanes in a vector.
    """

    def generate(context, builder, signature, arguments):
        x, first, second = arguments
        number = x.type
        x = builder.xor(x, first)
        x = builder.xor(x, builder.lshr(x, number(16)))
        x = builder.mul(x, number(LOWBIAS_1))
        x = builder.xor(x, builder.lshr(x, number(15)))
        x = builder.add(x, second)
        x = builder.mul(x, number(LOWBIAS_2))
        return builder.xor(x, builder.lshr(x, number(16)))

    return types.uint32(types.uint32, types.uint32, types.uint32), generate
