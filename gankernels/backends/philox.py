"""The constants of Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC'11) and
how its words become numbers, as csrc/core/philox.hpp has them (a test compares the two).
"""

from __future__ import annotations

__all__ = ["DOUBLE_BITS", "FLOAT_BITS", "KEY_STEPS", "MULTIPLIERS", "ROUNDS"]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
#: A uniform number is the upper bits of a word (float) or of two words (double, the second one high) as a fraction.
FLOAT_BITS, DOUBLE_BITS = 24, 53
