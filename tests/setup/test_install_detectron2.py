"""The Detectron2 installer: hashes, manifest, ports. Nothing is downloaded."""

import io
import re
import subprocess
import sys
import tarfile

import pytest

from tools import install_detectron2 as installer

SAMPLES = {
    "detectron2/structures/masks.py": ("np.zeros(3).astype(np.bool)", "np.zeros(3).astype(bool)"),
    "detectron2/data/build.py": ("dtype=np.int\n)", "dtype=int\n)"),
    "detectron2/evaluation/a.py": ("astype(np.float), np.float32, np.int64", "astype(float), np.float32, np.int64"),
    "detectron2/data/datasets/pascal_voc.py": ("np.loadtxt(f, dtype=np.str)", "np.loadtxt(f, dtype=str)"),
    "detectron2/data/transforms/transform.py": ("interp=Image.LINEAR,", "interp=Image.BILINEAR,"),
}


def make_sdist(folder, files: dict[str, bytes]):
    target = folder / "pb1-detectron2-0.6.tar.gz"
    with tarfile.open(target, "w:gz") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(f"pb1-detectron2-0.6/{path}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target


@pytest.mark.parametrize("path", SAMPLES)
def test_ports_replace_and_mark(path):
    before, after = SAMPLES[path]
    text, used = installer.port_source(path, before)
    assert text.splitlines()[0].startswith("# Modified by fa_detectron") and used[0].reason in text.splitlines()[0]
    assert text.partition("\n")[2] == after


def test_untouched_file_has_no_mark():
    assert installer.port_source("detectron2/a.py", "x = np.bool_(1)\n") == ("x = np.bool_(1)\n", [])


def test_missing_native_module_is_optional_in_layers_only():
    line = "from detectron2 import _C\n"
    text, _ = installer.port_source("detectron2/layers/deform_conv.py", line)
    compile(text, "deform_conv.py", "exec")
    assert "except ImportError" in text
    # COCOEvaluator falls back to pycocotools because this import still fails.
    assert installer.port_source("detectron2/evaluation/fast_eval_api.py", line)[0] == line


def test_every_port_has_a_reason_and_is_a_valid_pattern():
    for port in installer.PORTS:
        assert len(port.reason) > 10 and re.compile(port.pattern)


def test_unused_port_is_refused(tmp_path):
    contents = {path: before for path, (before, _) in SAMPLES.items()}
    with pytest.raises(installer.InstallError, match="match nothing"):
        installer.write_source_tree(contents, tmp_path)


def test_other_archive_is_refused(tmp_path):
    sdist = make_sdist(tmp_path, {"setup.py": b"raise SystemExit('ran')"})
    with pytest.raises(installer.InstallError, match=r"expected 5d2e9e51e523.*nothing of it was run"):
        installer.check_archive_hash(sdist)


def test_only_python_files_and_the_licence_are_taken(tmp_path):
    files = {
        "detectron2/a.py": b"good",
        "LICENSE": b"words",
        "setup.py": b"",
        "../escape.py": b"",
        "detectron2/b.cpp": b"",
    }
    sdist = make_sdist(tmp_path, files | {"detectron2/../../escape.py": b""})
    assert installer.read_sources(sdist) == {"detectron2/a.py": "good", "LICENSE": "words"}


def fake(monkeypatch, version, imports):
    """Pretend that pip knows `version` and that importing gives `imports`, one status a call."""
    calls = []
    statuses = iter(imports)
    monkeypatch.setattr(installer, "installed_version", lambda: version)
    monkeypatch.setattr(installer, "check_import", lambda: (next(statuses), "somewhere"))
    monkeypatch.setattr(installer, "pip", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(installer, "git_reaches_upstream", lambda: False)
    monkeypatch.setattr(installer, "install_port", lambda sdist, constraints: calls.append("port"))
    return calls


@pytest.mark.parametrize(
    ("version", "imports", "source", "expected"),
    [
        (None, [1, 0], "", ["port"]),
        (installer.PORT_VERSION, [0], "", []),
        ("0.6", [0], "", []),  # upstream, built by the user
        ("0.6", [0], "git", []),
        (None, [0], "", []),  # on the path without metadata: a source tree
        ("0.6+fa0", [0, 0], "", ["port"]),  # an older port
    ],
)
def test_what_is_installed_is_used(monkeypatch, version, imports, source, expected):
    calls = fake(monkeypatch, version, imports)
    installer.install(None, None, source)
    assert calls == expected


GIT = ("install", "--no-build-isolation", installer.GIT_REQUIREMENT)


@pytest.mark.parametrize("version", [None, installer.PORT_VERSION])
def test_git_takes_upstream(monkeypatch, version):
    calls = fake(monkeypatch, version, [1 if version is None else 0, 0, 0])
    installer.install(None, None, "git")
    assert calls == [GIT]


@pytest.mark.parametrize(
    ("source", "reached", "imports", "expected"),
    [
        ("", True, [1, 0, 0], [GIT]),
        ("", True, [1, 1, 0], [GIT, "port"]),  # upstream's build does not import
        ("", False, [1, 0], ["port"]),
        ("port", True, [1, 0], ["port"]),
    ],
)
def test_upstream_comes_first_where_git_reaches_it(monkeypatch, source, reached, imports, expected):
    calls = fake(monkeypatch, None, imports)
    monkeypatch.setattr(installer, "git_reaches_upstream", lambda: reached)
    installer.install(None, None, source)
    assert calls == expected


def test_upstream_that_was_asked_for_is_not_replaced(monkeypatch):
    calls = fake(monkeypatch, None, [1, 1])
    with pytest.raises(installer.InstallError, match="importing it fails"):
        installer.install(None, None, "git")
    assert calls == [GIT]


@pytest.mark.parametrize("answer", ["exit 0", "exit 2", "sleep 60", None])
def test_whether_git_reaches_upstream(monkeypatch, tmp_path, answer):
    if answer:
        (tmp_path / "git").write_text(f"#!/bin/sh\nexec /bin/sh -c '{answer}'\n")
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + (":/usr/bin:/bin" if answer else ""))
    monkeypatch.setattr(installer, "GIT_SECONDS", 1)
    assert installer.git_reaches_upstream() == (answer == "exit 0")


def test_broken_foreign_installation_is_left_alone(monkeypatch):
    calls = fake(monkeypatch, "0.6", [1])
    with pytest.raises(installer.InstallError, match="pip uninstall detectron2"):
        installer.install(None, None, "")
    assert calls == []


def test_errors_are_one_line_without_traceback(tmp_path):
    command = [sys.executable, installer.__file__, "--sdist", str(tmp_path / "no.tar.gz")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("error: --sdist") and result.stderr.count("\n") == 1
