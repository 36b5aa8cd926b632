"""The run that these tests detect with."""

from tests.inference.conftest import photos, predictor, trained  # noqa: F401  fixtures
