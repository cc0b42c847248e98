"""What an operation is measured against: its formula in place of the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def by_formulas() -> Iterator[None]:
    """Every operation runs its formula."""
    before = os.environ.get("MEDSEG_KERNELS")
    os.environ["MEDSEG_KERNELS"] = "reference"
    try:
        yield
    finally:
        os.environ.pop("MEDSEG_KERNELS")
        if before is not None:
            os.environ["MEDSEG_KERNELS"] = before
