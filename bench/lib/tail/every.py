"""Every row of the tail, in the order in which it is measured and reported."""

from . import changes, rows


def every():
    """All of them."""
    return [*rows.rows(), *changes.every()]
