"""Draw a test split by seed, for data sets that come without one."""

import hashlib
from collections.abc import Sequence

from cnnjax.errors import UserError

TEST_SHARE = 0.2
"""Of the images, where data.test_share does not say."""


def held_out(names: Sequence[str], share: float, seed: int, what: str) -> list[bool]:
    """Which of the images are held out: `share` of them, at least one, and at least one is not.

    The draw depends on the names and the seed alone, not on their order; a name more or less moves at most one other.
    Raises UserError, which calls the images `what`, for fewer than two.
    """
    if not 0 < share < 1:
        raise UserError(f"data.test_share: found {share}, expected over 0 and under 1")
    if len(names) < 2:
        raise UserError(f"data.path: {what} has {len(names)} image{'s' * (len(names) != 1)}, too few to hold some out "
                        "for testing")
    count = min(max(1, round(share * len(names))), len(names) - 1)
    ranks = {name: hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest() for name in names}
    chosen = set(sorted(names, key=lambda name: (ranks[name], name))[:count])
    return [name in chosen for name in names]
