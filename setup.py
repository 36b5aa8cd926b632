"""The native operators, and configs/ in the wheel; everything else is in pyproject.toml.

Build inside an environment that has torch: pip install -e . --no-build-isolation
"""

import os
import shutil
import sys
from pathlib import Path

import setuptools
from setuptools import Command, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
BY_HAND = "pip install -e . --no-build-isolation"


def native() -> dict:
    """ext_modules and cmdclass of the native operators; without a compiler the package runs in plain PyTorch."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"error: torch is needed to build ({error}). Install it first, then type: {BY_HAND}") from None
    sys.path.insert(0, str(ROOT / "csrc"))
    import build

    lack = build.missing()
    if lack and (os.environ.get("CI") == "true" or os.environ.get("FA_CUDA") == "1"):
        raise SystemExit(f"error: {lack}: with CI=true or FA_CUDA=1 the native operators must be built")
    if lack:
        print(f"warning: {lack}: the operators will run in plain PyTorch, slower", file=sys.stderr)
        return {}
    try:
        return {"ext_modules": build.extensions(), "cmdclass": build.cmdclass()}
    except build.BuildError as error:
        raise SystemExit(f"error: {error}") from None


class BuildWithConfigs(build_py):
    """Puts configs/ into the built package, where fa_detectron.engine.config_file finds them without a checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree(ROOT / "configs", Path(self.build_lib, "fa_detectron", "configs"), dirs_exist_ok=True)


def develop_command() -> type:
    """`python setup.py develop` without build isolation, which would hide torch from the build."""
    try:
        from setuptools.command.develop import develop
    except ImportError:

        class Gone(Command):
            user_options = []

            def initialize_options(self) -> None: ...

            def finalize_options(self) -> None: ...

            def run(self) -> None:
                raise SystemExit(f"error: this setuptools has no `develop` any more, type: {BY_HAND}")

        return Gone

    class Develop(develop):
        def run(self) -> None:
            os.environ["PIP_NO_BUILD_ISOLATION"] = "0"  # pip's spelling of --no-build-isolation
            super().run()

    return Develop


if __name__ == "__main__":
    os.chdir(ROOT)
    if int(setuptools.__version__.split(".")[0]) < 77:
        raise SystemExit("error: pyproject.toml needs setuptools 77: pip install --upgrade 'setuptools>=77,<82'")
    # The commands that compile nothing need no torch either.
    arguments = {} if sys.argv[1:2] in (["sdist"], ["egg_info"], ["dist_info"]) else native()
    setup(
        ext_modules=arguments.get("ext_modules", []),
        cmdclass=arguments.get("cmdclass", {}) | {"build_py": BuildWithConfigs, "develop": develop_command()},
    )
