"""Where tests find the numbers that others computed, and data sets that a clone does not have."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
PARITY = FIXTURES / "parity"
SHARED = ROOT.parent / "shared"

needs_shared = pytest.mark.skipif(
    not SHARED.exists(), reason=f"{SHARED} is absent: data sets with images are not shipped"
)
