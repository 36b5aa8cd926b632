"""Right kernels give the right result in every order, each fault shows. Needs a C++ compiler with its sanitizers."""

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

EMULATION = Path(__file__).resolve().parents[1]
ROOT = EMULATION.parents[1]
ORDERS = ["forward", "backward", "1", "2"]


def load_translate():
    spec = importlib.util.spec_from_file_location("translate", EMULATION / "translate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


translate = load_translate()


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory):
    """The program of kernels.cu, compiled once for each sanitizer that a test asks for ("" is none)."""
    folder = tmp_path_factory.mktemp("emulation")
    built: dict[str, Path] = {}
    torch_folder = Path(torch.__file__).parent
    source = folder / "kernels.cpp"
    source.write_text(
        '#include "emulation/device.h"\n' + translate.translate(Path(__file__).with_name("kernels.cu").read_text())
    )

    def program(sanitizer: str) -> Path:
        if sanitizer not in built:
            built[sanitizer] = folder / f"kernels-{sanitizer}"
            command = [os.environ.get("CXX", "g++"), "-std=c++17", "-O1", "-g1", "-Wall", "-Wno-unknown-pragmas"]
            command += [f"-fsanitize={sanitizer}"] if sanitizer else []
            command += [f"-I{EMULATION}/include", f"-I{torch_folder}/include", "-o", str(built[sanitizer])]
            command += [str(source), *map(str, sorted(EMULATION.glob("src/*.cpp")))]
            command += [f"-L{torch_folder}/lib", "-lc10", f"-Wl,-rpath,{torch_folder}/lib"]
            subprocess.run(command, check=True)
        return built[sanitizer]

    return program


def run(program: Path, name: str, order: str = "1", **variables: str) -> str:
    """What the program prints, on both channels."""
    environment = os.environ | {"FA_EMULATION_ORDER": order, "TSAN_OPTIONS": "", "ASAN_OPTIONS": "detect_leaks=0"}
    environment |= variables
    result = subprocess.run([program, name], env=environment, capture_output=True, text=True, check=False)
    return (result.stdout + result.stderr).strip()


@pytest.mark.parametrize("sanitizer", ["", "address,undefined", "thread"])
@pytest.mark.parametrize("name", ["reverse", "ring", "votes", "warps", "bits", "absent lane", "warp exchange",
                                  "leftover", "dynamic", "much dynamic", "vector addition", "inside shared",
                                  "atomic sum", "indices"])  # fmt: skip
def test_right_kernels_are_right_in_every_order(build, name: str, sanitizer: str) -> None:
    assert {order: run(build(sanitizer), name, order) for order in ORDERS} == dict.fromkeys(ORDERS, "right")


@pytest.mark.parametrize("name", ["reverse without barrier", "ring without second barrier"])
def test_a_missing_barrier_shows_as_a_wrong_result_in_some_order(build, name: str) -> None:
    assert "wrong" in {run(build(""), name, order) for order in ORDERS}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["reverse without barrier", "ring without second barrier", "warp exchange by shuffle",
                                  "sum without atomics", "a sum of blocks",
                                  "a sum of blocks of one thread"])  # fmt: skip
def test_a_race_is_reported_whatever_the_order(build, name: str, order: str) -> None:
    assert "data race" in run(build("thread"), name, order)


@pytest.mark.parametrize("name", ["beyond shared", "dynamic too small"])
def test_an_access_beyond_a_shared_array_is_reported(build, name: str) -> None:
    assert "AddressSanitizer" in run(build("address,undefined"), name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("divergent", ["kKernel", "16 threads", "wait at __syncthreads", "left"]),
        ("two barriers", ["16 threads (the first is 0)", "16 threads (the first is 16)"]),
        ("half warp", ["wait at __syncwarp", "for the lanes 0xffffffff", "16 threads (the first is 16)"]),
        ("no blocks", ["no grid of (0, 1, 1) blocks"]),
        ("too many blocks", ["no grid of (1, 65536, 1) blocks"]),
        ("too many threads", ["no block of (1025, 1, 1) threads"]),
        ("dynamic too large", ["49153 bytes of shared memory"]),
        ("more dynamic than allowed", ["65537 bytes of shared memory"]),
        ("misaligned vector addition", ["the address of a vector", "multiple of 16"]),
        ("require", ["a condition that a kernel requires is false"]),
        ("default stream", ["another stream than the current one"]),
        ("no guard", ["without a guard"]),
    ],
)
def test_what_cuda_refuses_or_leaves_undefined_is_an_error_in_words(build, name: str, words: list[str]) -> None:
    printed = run(build(""), name)
    assert all(part in printed for part in ["emulated CUDA, ", *words]), printed


@pytest.mark.parametrize(
    ("name", "device", "words"),
    [
        ("more dynamic than there is", "9.0", "232449 bytes of shared memory, a block has 232448"),
        ("much dynamic", "7.5", "right"),
        ("vector addition", "8.9", "red.global.add.v4.f32 needs sm_90"),
        ("dynamic", "6.0", "FA_EMULATION_DEVICE=6.0 is not one of"),
    ],
)
def test_what_a_device_has_is_what_its_capability_says(build, name: str, device: str, words: str) -> None:
    printed = run(build(""), "much dynamic" if device == "6.0" else name, FA_EMULATION_DEVICE=device)
    assert words in printed


def test_a_log_has_each_launch_which_does_not_run(build, tmp_path: Path) -> None:
    assert run(build(""), "reverse", FA_EMULATION_LOG=str(tmp_path / "log")) == "wrong"
    (line,) = (tmp_path / "log").read_text().splitlines()
    launch = json.loads(line)
    assert launch["kernel"] == "reverse_kernel<kBarrier>" and "kBarrier = true" in launch["caller"]
    assert launch["grid"] == [5, 1, 1] and launch["block"] == [64, 1, 1] and launch["shared"] == 0


def test_only_one_header_has_ptx_or_asks_for_the_architecture() -> None:
    """The emulation has its own; what stood elsewhere would be code that nothing runs without a GPU."""
    folders = [*ROOT.glob("csrc/*/cuda"), ROOT / "csrc/common"]
    files = [path for folder in folders for path in folder.iterdir()]
    words = re.compile(r"\basm\b|__asm|__CUDA_ARCH__")
    assert {path.name for path in files if words.search(translate.without_comments(path.read_text()))} == {
        "intrinsics.cuh"
    }


@pytest.mark.parametrize(
    "text",
    [
        "<<<grid>>>(x);",
        'asm("trap;");',
        "#if __CUDA_ARCH__ >= 900",
        "kernel<<<grid, block>>>;",
        "kernel<<<grid, block(x);",
        "__shared__ float a[2], b[2];",
    ],
)
def test_what_the_translation_does_not_know_is_an_error(text: str) -> None:
    with pytest.raises(translate.TranslationError):
        translate.translate(text)


def test_the_translation_keeps_lines_and_comments() -> None:
    text = "// a<<<1, 2>>>(3) and __shared__ int x;\nf<g<T>, 2>\n  <<<n, 32,\n     0, s>>>(a(b),\n             c);\n"
    lines = translate.translate(text).splitlines()
    assert lines[0] == text.splitlines()[0]
    assert len(lines) == 5
    call = " ".join(" ".join(lines[1:]).split())
    assert call == (
        'fa::emulation::launch(fa::emulation::configuration(n, 32, 0, s), "f<g<T>,2>", f<g<T>, 2>, '
        "__PRETTY_FUNCTION__, [&] { f<g<T>, 2> (a(b), c); });"
    )
