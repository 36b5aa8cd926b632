"""Where the published implementation's numbers and the photographs lie, for the tests that use them."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(path: str) -> Path:
    """A file or folder below ``../shared``; skips the test where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"../shared/{path} is not here (it does not come with the project)")
    return found
