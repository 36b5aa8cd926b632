"""Makes a tree of native sources in which the CUDA operators run on the CPU, threads emulated one after the other.

    python tools/cuda_emulation/translate.py TARGET

TARGET/csrc gets csrc, with the sources of each csrc/OPERATOR/cuda in the place of csrc/OPERATOR/cpu. g++ compiles
CUDA's C++ with the headers of include/, except for two things, which are rewritten: launches (``kernel<<<...>>>(...)``)
and ``__shared__`` declarations. Lines keep their numbers. Whatever is not recognised is an error, inline PTX too: all
of it is in common/intrinsics.cuh, which include/common/intrinsics.cuh replaces. The few expressions that ask for the
device are replaced by name (REPLACED).
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EMULATION = Path(__file__).resolve().parent

# The emulated operators are registered for CPU tensors, in every source.
REGISTERED = ("TORCH_LIBRARY_IMPL(fa_detectron, CUDA,", "TORCH_LIBRARY_IMPL(fa_detectron, CPU,")
# What CPU tensors get and CUDA tensors do not: file -> (text that must stand in it once, what stands there instead).
REPLACED = {
    "csrc/quality_loss/autograd.cpp": ("x.device().is_cpu()", "false"),
    "csrc/quality_loss/arguments.cpp": ("grad.device().is_cpu()", "false"),
    "fa_detectron/ops/decode.py": ('device.type == "cuda"', 'device.type == "cpu"'),
    "fa_detectron/ops/native.py": ('_CUDA_DEVICE = "cuda"', '_CUDA_DEVICE = "cpu"'),
}


class TranslationError(Exception):
    """A construct that the translation does not know; the message names the file and the line."""


def without_comments(text: str) -> str:
    """The text with comments and string literals blanked, character for character."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
    return token.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def closing(text: str, begin: int, pair: str) -> int:
    """The index of the bracket that closes the one at ``begin``; ``pair`` is both, as "()"."""
    depth = 0
    for index in range(begin, len(text)):
        depth += (text[index] == pair[0]) - (text[index] == pair[1])
        if depth == 0:
            return index
    raise TranslationError(f"{text[begin]} without its {pair[1]}")


def translate_launch(text: str, code: str, at: int) -> tuple[int, int, str]:
    """One launch, ``at`` is its <<<: (begin, end, what stands there instead)."""
    begin = len(code[:at].rstrip())
    if code[begin - 1] == ">":  # template arguments: back to their <
        depth = 1
        while depth > 0 and begin > 1:
            begin -= 1
            depth += (code[begin - 1] == ">") - (code[begin - 1] == "<")
        begin -= 1
    name = re.search(r"[A-Za-z_][\w:]*\s*$", code[:begin])
    end_of_configuration = code.find(">>>", at)
    if name is None or end_of_configuration < 0:
        raise TranslationError("no kernel before, or no >>> behind")
    opening = code.find("(", end_of_configuration)
    if opening < 0 or code[end_of_configuration + 3 : opening].strip():
        raise TranslationError("no arguments behind >>>")
    end = closing(code, opening, "()") + 1
    kernel, configuration = text[name.start() : at], text[at + 3 : end_of_configuration]
    title = "".join(kernel.split())
    instead = f"fa::emulation::launch(fa::emulation::configuration({configuration}), "
    arguments = f'"{title}", {" ".join(kernel.split())}, __PRETTY_FUNCTION__'
    return name.start(), end, instead + f"{arguments}, [&] {{ {kernel}{text[opening:end]}; }})"


_STATIC = re.compile(r"__shared__\s+((?:const\s+)?[A-Za-z_][\w:<>, ]*?)\s*\b([A-Za-z_]\w*)\s*((?:\[[^;\]]+\]\s*)*);")
_DYNAMIC = re.compile(
    r"extern\s+__shared__\s+(?:(?:alignas|__align__)\(\d+\)\s*)?([A-Za-z_][\w:<>, ]*?)\s*\b([A-Za-z_]\w*)\s*\[\s*\]\s*;"
)


def translate(text: str) -> str:
    """A CUDA source as C++ for the emulation's headers."""
    code = without_comments(text)
    changes = [translate_launch(text, code, found.start()) for found in re.finditer("<<<", code)]
    for found in _DYNAMIC.finditer(code):
        instead = f"{found[1]}* const {found[2]} = static_cast<{found[1]}*>(fa::emulation::dynamic_shared_array());"
        changes.append((found.start(), found.end(), instead))
    dynamic = [range(begin, end) for begin, end, _ in changes]
    for found in _STATIC.finditer(code):
        if any(found.start() in span for span in dynamic):
            continue
        call = f'fa::emulation::shared<{found[1]}{found[3]}>(__PRETTY_FUNCTION__, "{found[2]}")'
        reference = f"(&{found[2]}){found[3]}" if found[3] else f"& {found[2]}"
        changes.append((found.start(), found.end(), f"{found[1]} {reference} = {call};"))
    for begin, end, instead in sorted(changes, reverse=True):
        missing = text[begin:end].count("\n") - instead.count("\n")
        text = text[:begin] + instead + "\n" * missing + text[end:]
    for number, line in enumerate(without_comments(text).splitlines(), 1):
        if left := re.search(r"<<<|>>>|__shared__|\basm\b|\b__CUDA_ARCH__\b", line):
            raise TranslationError(f"line {number}: {left[0]} is not understood: {line.strip()}")
    return text


def write(path: Path, text: str) -> None:
    """Writes where the content differs, so that ninja compiles what changed."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def replaced(name: str, text: str) -> str:
    if name in REPLACED:
        old, new = REPLACED[name]
        if text.count(old) != 1:
            raise TranslationError(f"{old} does not stand in it once, but {text.count(old)} times")
        text = text.replace(old, new)
    if re.match(r"csrc/\w+/cuda/", name):
        text = text.replace(*REGISTERED)
    if re.fullmatch(r"csrc/\w+/\w+\.h", name):  # the math that host and device share
        text = text.replace("__CUDA_ARCH__", "FA_EMULATED_ARCH")
    return text


def make_tree(target: Path) -> None:
    """Writes the whole tree; files that have no source any more are removed."""
    sources = {f"csrc/{path.relative_to(EMULATION / 'include')}": path for path in EMULATION.glob("include/**/*.*h")}
    sources |= {f"csrc/emulation/{path.name}": path for path in EMULATION.glob("src/*.cpp")}
    folders = ("csrc", "fa_detectron", "tests", "benchmarks", "tools/cuda_emulation/tests")
    for path in sorted(path for folder in folders for path in ROOT.glob(f"{folder}/**/*")):
        name = str(path.relative_to(ROOT))
        if path.is_file() and not re.match(r"csrc/\w+/cpu/", name) and path.suffix not in (".so", ".pyc"):
            sources.setdefault(name, path)  # the emulation has intrinsics.cuh of its own
    kept = set()
    for name, path in sources.items():
        try:
            if name.startswith("csrc/") and path.suffix in (".cu", ".cuh"):
                text = translate(replaced(name, path.read_text()))
                if path.suffix == ".cu":
                    text = f'#include "emulation/device.h"\n#line 1 "{name}"\n{text}'
            elif path.suffix in (".cpp", ".h", ".py"):
                text = replaced(name, path.read_text())
            else:
                text = None
        except TranslationError as error:
            raise TranslationError(f"{name}: {error}") from None
        found = re.match(r"(csrc/\w+)/cuda/", name)
        if found and path.suffix in (".cu", ".cpp"):  # where csrc/build.py looks
            name = f"{found[1]}/cpu/{path.stem}{'_cu' if path.suffix == '.cu' else ''}.cpp"
        kept.add(target / name)
        if text is not None:
            write(target / name, text)
        elif not (target / name).exists() or (target / name).read_bytes() != path.read_bytes():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
    for folder in folders:
        for path in (target / folder).glob("**/*"):
            if path.is_file() and path not in kept and path.suffix not in (".so", ".pyc"):
                path.unlink()
    write(target / "pyproject.toml", (ROOT / "pyproject.toml").read_text())


if __name__ == "__main__":
    try:
        make_tree(Path(sys.argv[1]))
    except TranslationError as translation_error:
        raise SystemExit(f"error: {translation_error}") from None
