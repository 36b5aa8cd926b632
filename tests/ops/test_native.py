"""Whether the native operators are loaded, and what is said where they are not."""

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fa_detectron.ops import deform_conv2d, library, native
from fa_detectron.ops.schemas import SCHEMAS, digest

INFO = b"FA_BUILD_INFO{torch=" + torch.__version__.encode() + b";cuda=%s;archs=%s;schemas=%s}"


def status_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> native.Status:
    monkeypatch.delenv("FA_NO_NATIVE", raising=False)
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(path)))
    return native._load()


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (b"FA_BUILD_INFO{torch=1.9.0;cuda=;archs=;schemas=}", "built for torch 1.9.0"),
        (b"no such thing", r"built for torch \(unknown\)"),
        (INFO % (b"9.9", b"8.0", digest().encode()), "built for CUDA 9.9"),
        (INFO % (b"", b"", b"0123456789abcdef"), "older than the Python code"),  # loading it would end the process
    ],
)
def test_an_extension_for_another_torch_is_not_loaded(
    info: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "_C.so"
    path.write_bytes(b"\x7fELF" + bytes(100) + info + bytes(100))
    status = status_of(path, monkeypatch)
    assert not status.loaded
    assert re.search(reason, status.reason) and "build them again" in status.reason


def test_a_file_that_does_not_load_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "_C.so"
    path.write_bytes(INFO % (b"", b"", digest().encode()))

    def fail(name: str) -> None:
        raise ImportError("undefined symbol: x")

    monkeypatch.setattr(native.importlib, "import_module", fail)
    status = status_of(path, monkeypatch)
    assert not status.loaded and "_C.so" in status.reason and "undefined symbol" in status.reason


def test_the_fallback_says_so_once_and_computes_the_same() -> None:
    code = (
        "import torch, warnings; from fa_detectron.ops import deform_conv2d\n"
        "random = torch.Generator().manual_seed(0)\n"
        "arguments = [torch.randn(s, generator=random) for s in ((1, 2, 4, 4), (1, 18, 4, 4), (3, 2, 3, 3))]\n"
        "for _ in range(2): out = deform_conv2d(*arguments, padding=1)\n"
        "print(out.flatten().tolist())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"FA_NO_NATIVE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = run.stderr.splitlines()
    assert line.endswith("plain PyTorch, slower, the native operators are off: FA_NO_NATIVE is set")
    random = torch.Generator().manual_seed(0)
    arguments = [torch.randn(s, generator=random) for s in ((1, 2, 4, 4), (1, 18, 4, 4), (3, 2, 3, 3))]
    expected = deform_conv2d(*arguments, padding=1).flatten()
    torch.testing.assert_close(torch.tensor(json.loads(run.stdout)), expected)


def test_only_the_kernels_chosen_at_run_time_need_more_than_the_baseline() -> None:
    """Any other function of the extension runs on every x86-64: no AVX in it, whatever it was compiled beside."""
    if not native.loaded():
        pytest.skip("the native operators are not built")
    if shutil.which("objdump") is None:
        pytest.skip("no objdump")
    if platform.machine() != "x86_64":
        return  # one portable path
    file = importlib.util.find_spec("fa_detectron._C").origin
    command = ["objdump", "--disassemble", "--no-show-raw-insn", "--no-addresses", file]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    function, dispatched, elsewhere = "", set(), set()
    for line in listing.splitlines():
        if line.endswith(">:"):
            function = line[1:-2]
        # The mnemonics of VEX and EVEX encodings begin with v, those of the opmask registers with k.
        elif re.match(r"\s+[vk]\w+\s.*%([xyz]mm|k[0-7])", line):
            (dispatched if re.search(r"4avx2|6avx512", function) else elsewhere).add(function)
    assert not elsewhere
    assert dispatched or "6avx512" not in listing  # else no instruction was recognised


ARCHITECTURES = [
    ("8.0", (8, 0), True),
    ("8.0", (8, 6), True),  # machine code runs on later minor capabilities
    ("8.6", (8, 0), False),
    ("8.0", (9, 0), False),
    ("8.0+PTX", (9, 0), True),
    ("9.0+PTX", (8, 9), False),
    ("7.5;9.0", (9, 0), True),
    ("7.5 8.0", (8, 9), True),
    ("9.0a", (9, 0), True),
    ("9.0a+PTX", (10, 0), False),  # for its own capability alone
    ("10.0f", (10, 3), True),
    ("10.0f+PTX", (12, 0), False),
    ("7.5;8.0;9.0;12.0+PTX", (10, 0), False),
    ("", (8, 0), False),
]


@pytest.mark.parametrize(("archs", "capability", "fits"), ARCHITECTURES)
def test_architectures(archs: str, capability: tuple[int, int], fits: bool) -> None:
    assert native.architectures_fit(archs, capability) == fits


@pytest.mark.parametrize(
    ("capability", "native_there"), [((8, 6), True), ((9, 0), True), ((7, 5), False), ((10, 0), False)]
)
def test_on_a_gpu_without_code_for_it_the_default_kernels_take_over_with_one_line(
    capability: tuple[int, int],
    native_there: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken = []
    record = SimpleNamespace(impl=lambda name, kernel, key, allow_override: taken.append((name, key)))
    monkeypatch.setattr(native, "_STATUS", native.Status(True, "", torch.__version__, "13.0", "8.0;9.0"))
    monkeypatch.setattr(native, "_warned", set())
    monkeypatch.setattr(library, "LIBRARY", record)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    gpu = torch.device("cuda:0")
    for function in (native.lacks_code_for, library._take_over):
        function.cache_clear()
    for _ in range(2):
        library.prepare(SimpleNamespace(is_cuda=True, device=gpu))
        if not native_there:
            native.say_plain(gpu)
    for function in (native.lacks_code_for, library._take_over):
        function.cache_clear()
    public = ("deform_conv2d", "deform_conv2d_levels", "quality_statistics", "quality_loss", "decode_detections")
    keys = [] if native_there else [(name, key) for name in public for key in ("CUDA", "AutogradCUDA")]
    assert sorted(taken) == sorted(keys)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (not native_there)
    words = "no code for GPU 0 of compute capability {}.{}, only for 8.0;9.0".format(*capability)
    assert all("plain PyTorch" in line and words in line for line in lines)


def test_the_built_binary_has_code_for_the_architectures_that_it_names() -> None:
    status = native.status()
    triton = importlib.util.find_spec("triton")
    if not status.cuda_version or triton is None:
        pytest.skip("built without CUDA operators, or no cuobjdump")
    tool = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"
    file = importlib.util.find_spec("fa_detectron._C").origin

    def listed(option: str) -> set[str]:
        text = subprocess.run([tool, option, file], capture_output=True, text=True, check=True).stdout
        return {f"{major}.{minor}" for major, minor in re.findall(r"\.sm_(\d+)(\d[af]?)\.", text)}

    entries = set(status.cuda_archs.split(";"))
    assert listed("--list-elf") == {entry.removesuffix("+PTX") for entry in entries}
    assert listed("--list-ptx") == {entry.removesuffix("+PTX") for entry in entries if entry.endswith("+PTX")}


def test_a_build_has_every_operator_on_its_devices() -> None:
    """Needs no GPU. Without its autograd key a device would run the default kernels."""
    names = [f"fa_detectron::{schema.partition('(')[0]}" for schema in SCHEMAS]
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    for device, built in (("CPU", native.loaded()), ("CUDA", bool(native.status().cuda_version))):
        assert [has_kernel(name, device) for name in names] == [built] * len(names)
        # quality_loss_forward and _backward are called below autograd.
        public = [name for name in names if not name.startswith("fa_detectron::quality_loss_")]
        assert [has_kernel(name, f"Autograd{device}") for name in public] == [built] * len(public)


@pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
def test_a_tangent_is_refused_in_words_and_not_lost() -> None:
    weight, offset = torch.randn(4, 4, 3, 3), torch.zeros(1, 18, 5, 5)
    x = torch.randn(1, 4, 5, 5)
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda x: deform_conv2d(x, offset, weight, padding=1), (x,), (torch.ones_like(x),))


@pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
def test_a_compiled_tangent_is_refused_in_words_and_not_lost() -> None:
    weight, offset = torch.randn(4, 4, 3, 3), torch.zeros(1, 18, 5, 5)

    def derivative(x: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(lambda x: deform_conv2d(x, offset, weight, padding=1), (x,), (x,))[1]

    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.compile(derivative, backend="eager")(torch.randn(1, 4, 5, 5))
    torch._dynamo.reset()


def test_plain_pytorch_takes_a_tangent() -> None:
    code = """
import torch
from fa_detectron.ops import deform_conv2d
weight, offset = torch.randn(4, 4, 3, 3), torch.zeros(1, 18, 5, 5)
x, tangent = torch.randn(2, 1, 4, 5, 5)
result = torch.func.jvp(lambda x: deform_conv2d(x, offset, weight, padding=1), (x,), (tangent,))
expected = [torch.nn.functional.conv2d(value, weight, padding=1) for value in (x, tangent)]
torch.testing.assert_close(result, tuple(expected))
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"FA_NO_NATIVE": "1"}, check=True)
