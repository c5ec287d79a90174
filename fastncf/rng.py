"""Counter-based randomness: a draw is a hash of seed, purpose and position, so that threads and devices do not matter.

Keys are hashed by the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators") with Stafford's constants, variant 13.
"""

from enum import IntEnum

_MASK = (1 << 64) - 1

GOLDEN = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio, odd: the increment of SplitMix64."""

MIX_1 = 0xBF58476D1CE4E5B9
"""First multiplier of :func:`mix`."""

MIX_2 = 0x94D049BB133111EB
"""Second multiplier of :func:`mix`."""

LOWBIAS_1 = 0x7FEB352D
"""First multiplier of Wellons' 32-bit hash "lowbias32" (2018)."""

LOWBIAS_2 = 0x846CA68B
"""Second multiplier of "lowbias32"."""


class Stream(IntEnum):
    """Purposes of draws; the draws of different streams of one seed are independent of each other.

    The numbers are part of each key: a saved seed gives the same results only as long as they stay as they are.
    """

    NEGATIVES = 1
    """Negatives of an epoch."""

    PERMUTATION = 2
    """Order of the interactions of an epoch that is trained in batches."""

    CANDIDATES = 3
    """Candidates that a test item is ranked against."""

    VALIDATION_CANDIDATES = 4
    """Candidates that a validation item is ranked against."""

    USERS = 5
    """Users that a fit to part of the users keeps."""

    HELD_OUT = 6
    """Interaction of each user that a random split holds out."""

    PARAMETERS = 7
    """Parameters before the first epoch."""

    BLOCKS = 8
    """Parts of the catalogue, and the order of the blocks, of an epoch of block SGD."""

    HISTORIES = 9
    """Order of the users in an epoch of SGD on histories."""

    ORDER = 10
    """Users, and a shuffle of their histories, by which it is tested whether the order of histories matters."""

    DROPOUT = 11
    """Activations that dropout sets to 0."""

    TUNING = 12
    """Interaction of each user that is held out for the tuning of a setting, where no order is known."""

    TUNING_CANDIDATES = 13
    """Candidates that an item held out for tuning is ranked against."""

    TEST_USERS = 14
    """Users that are left out of the training for the test."""

    RESAMPLING = 15
    """Draws of the bootstrap and of the test that compare models over the same users."""


def mix(x: int) -> int:
    """Return a hash of a number below 2**64: a bijection in which each input bit changes about half the output bits."""
    x = ((x ^ (x >> 30)) * MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * MIX_2) & _MASK
    return x ^ (x >> 31)


def key(*parts: int) -> int:
    """Return the 64-bit key of a tuple of integers such as (seed, stream, epoch), each taken modulo 2**64.

    >>> key(1, 2) == key(2, 1)
    False
    """
    state = GOLDEN
    for part in parts:
        state = mix((state + (part & _MASK) + GOLDEN) & _MASK)
    return state
