"""The doctor's findings and remedies, on machines that are pretended."""

import sys

import pytest
import torch

from fa_detectron.apps import doctor
from fa_detectron.ops import native

FINE = native.Status(True, "", torch.__version__, "13.0", "8.0;9.0+PTX", "avx2")


def pretend_gpu(monkeypatch, *capabilities):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=0: capabilities[index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: "Card")


def test_this_environment_works(capsys):
    assert doctor.main([]) == 0
    screen = capsys.readouterr().out
    assert torch.__version__ in screen and "detectron2" in screen and "native ops" in screen
    assert len(screen.splitlines()) <= 25


def test_torchvision_of_another_torch_is_fatal(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    finding = doctor.check_torch()[-1]
    assert finding.fatal and "torchvision::nms" in finding.text and "matched pair" in finding.remedy


def test_missing_torch_ends_the_examination(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    findings = doctor.examine()
    assert findings[-1].name == "torch" and findings[-1].fatal


def test_detectron2_that_does_not_import_is_fatal(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    (finding,) = doctor.check_detectron2()
    assert finding.fatal and "install_detectron2" in finding.remedy


@pytest.mark.parametrize(("version", "origin"), [("0.6+fa1", "ported"), ("0.6", "upstream")])
def test_origin_of_detectron2(monkeypatch, version, origin):
    monkeypatch.setattr(doctor, "_version", lambda package: version)
    assert origin in doctor.check_detectron2()[0].text


def test_gpu_without_driver_support(monkeypatch):
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(doctor, "_driver", lambda: "470.1")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "newer driver" in doctor.check_gpu()[0].remedy
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "CUDA build of torch" in doctor.check_gpu()[0].remedy
    monkeypatch.setattr(doctor, "_driver", lambda: "")
    assert doctor.check_gpu()[0].remedy == ""


def test_a_card_without_code_for_it_runs_plain_pytorch_and_is_no_failure(monkeypatch):
    monkeypatch.setattr(native, "status", lambda: FINE)
    monkeypatch.setattr(native, "_STATUS", FINE)
    native.lacks_code_for.cache_clear()
    monkeypatch.setattr(doctor, "_native_operators", lambda: {"CPU": ["deform_conv2d"], "CUDA": ["deform_conv2d"]})
    pretend_gpu(monkeypatch, (8, 6), (7, 5), (10, 3))
    (finding,) = [finding for finding in doctor.check_native() if finding.remedy]
    native.lacks_code_for.cache_clear()
    assert (
        "plain PyTorch runs instead" in finding.text and "no code for GPU 1 of compute capability 7.5" in finding.text
    )
    assert "TORCH_CUDA_ARCH_LIST=7.5" in finding.remedy and not finding.fatal


def test_cpu_build_beside_a_gpu_says_how_to_build_cuda(monkeypatch):
    monkeypatch.setattr(native, "status", lambda: native.Status(True, "", torch.__version__, "", "", "avx2"))
    pretend_gpu(monkeypatch, (9, 0))
    assert "FA_CUDA=1" in doctor.check_native()[-1].remedy


@pytest.mark.parametrize("reason", ["FA_NO_NATIVE is set", "they are built for torch 1.0, this is 2.0"])
def test_operators_that_are_off_are_no_failure(monkeypatch, reason):
    monkeypatch.setattr(native, "status", lambda: native.Status(False, reason))
    (finding,) = doctor.check_native()
    assert reason in finding.text and finding.remedy and not finding.fatal


def test_missing_compiler_is_no_failure(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    (finding,) = doctor.check_build_tools()
    assert "g++" in finding.remedy and not finding.fatal


def test_fatal_finding_gives_exit_status_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("torch", "gone", "make setup", fatal=True)])
    assert doctor.main([]) == 1
    assert "FAIL" in capsys.readouterr().out
