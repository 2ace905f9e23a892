"""Python's garbage collector, set for processes that make and drop thousands of small objects a second."""

from __future__ import annotations

import gc

# Objects are freed by counting references; the collector only finds cycles, and at its default of 700 it took a fifth
# of a worker's time to find none.
THRESHOLDS = (100_000, 50, 100)


def relax_collector() -> None:
    """Look for cycles less often, and never again among what is there now: call it once all modules are imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
