"""Counted randomness: every draw is a hash of what it is for, so no result depends on threads or devices.

The mixing function is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable
pseudorandom number generators"), variant 13 of Stafford's constants.
"""

from enum import IntEnum

_MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
LOWBIAS_1 = 0x7FEB352D
LOWBIAS_2 = 0x846CA68B
"""Multipliers of Wellons' 32-bit mixer "lowbias32" (2018)."""


class Stream(IntEnum):
    """What a draw is for: different streams of one seed are independent of each other."""

    NEGATIVES = 1
    PERMUTATION = 2
    CANDIDATES = 3
    VALIDATION_CANDIDATES = 4
    USERS = 5
    HELD_OUT = 6
    PARAMETERS = 7
    BLOCKS = 8
    HISTORIES = 9
    ORDER = 10
    DROPOUT = 11
    CHOICE = 12
    CHOICE_CANDIDATES = 13


def mix(x: int) -> int:
    """A bijection of the 64-bit integers in which every input bit moves every output bit."""
    x = ((x ^ (x >> 30)) * MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * MIX_2) & _MASK
    return x ^ (x >> 31)


def key(*parts: int) -> int:
    """A 64-bit key for a tuple of integers such as (seed, stream, epoch).

    >>> key(1, 2) == key(2, 1)
    False
    """
    state = GOLDEN
    for part in parts:
        state = mix((state + (part & _MASK) + GOLDEN) & _MASK)
    return state
