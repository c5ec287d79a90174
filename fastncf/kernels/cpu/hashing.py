"""Integer hashes for kernels: the mixing functions of :mod:`fastncf.rng` in compiled form."""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from fastncf.rng import LOWBIAS_1, LOWBIAS_2, MIX_1, MIX_2


@njit(inline="always")
def mix64(x):
    """:func:`mix` of a uint64, for kernels."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(MIX_2)
    return x ^ (x >> np.uint64(31))


# A 32-bit hash of a counter under a 64-bit key: Wellons' "lowbias32" mixer (2018), one half of the key before it and
# the other between its two rounds. For one key it is a bijection, so two draws agree by 2**-32 less often than chance.
@intrinsic
def hash32(typingctx, position, first, second):
    """The hash of three uint32 as uint32, written for LLVM: Numba widens to 64 bits, which halves a vector's lanes."""

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
