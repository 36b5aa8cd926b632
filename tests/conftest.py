"""For all tests: with CI=true, nothing may be skipped for lack of the native operators or of a compiler."""

import importlib.util
import os
import shutil

import pytest


def pytest_sessionstart(session: pytest.Session) -> None:
    """Ends the run at once where CI=true and many tests would be skipped; FA_NO_NATIVE=1 asks for that."""
    wanted = os.environ.get("CI") == "true" and os.environ.get("FA_NO_NATIVE", "0") in ("", "0")
    if not wanted or hasattr(session.config, "workerinput"):
        return
    from fa_detectron.ops import native

    if not native.loaded():
        pytest.exit(f"with CI=true the native operators must be built: {native.status().reason}", returncode=1)
    if shutil.which((os.environ.get("CXX", "").split() or ["c++"])[0]) is None:
        pytest.exit("with CI=true a C++ compiler must be there", returncode=1)


@pytest.fixture(scope="session", autouse=True)
def logging_to_the_session() -> None:
    """Bind the log's handlers to pytest's own stdout: they would outlive that of the test which first logs."""
    if importlib.util.find_spec("detectron2") is not None:
        from fa_detectron.engine import start_logging

        start_logging()
