"""Where tests find the material that a user's clone does not have."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

needs_shared = pytest.mark.skipif(
    not SHARED.exists(), reason=f"{SHARED} is absent: fixtures and data sets are not shipped"
)
