"""Instructions that CUDA kernels issue, counted in their machine code (SASS): no GPU is needed.

The code of a kernel is cut into loops: from the target of a backward branch to the branch. How often a loop runs, the
caller says by units of work: "this warp makes 18 stores of 16 bytes", and a loop whose body has two of those runs nine
times. Code outside of such loops counts once; of two branches both do, unless one is said to be rare: counts are upper
bounds. Functions behind the last EXIT (divisions of denormal numbers) do not count.
"""

import contextlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LINE = re.compile(r"^\s+/\*([0-9a-f]+)\*/\s+(@!?U?P\w+\s+)?(.*?)\s*;")


@dataclass(frozen=True)
class Kernel:
    """Opcodes with their modifiers ("LDG.E.128") in order, loops [first, last] and skipped regions of instructions."""

    opcodes: tuple[str, ...]
    loops: tuple[tuple[int, int], ...]
    skips: tuple[tuple[int, int], ...]  # what a forward branch jumps over

    @property
    def end(self) -> int:
        """Index behind the kernel's own code."""
        return max((index for index, opcode in enumerate(self.opcodes) if opcode == "EXIT"), default=-1) + 1

    def body(self, loop: tuple[int, int]) -> list[str]:
        """Opcodes of a loop without those of its inner loops."""
        inner = [other for other in self.loops if other != loop and loop[0] <= other[0] and other[1] <= loop[1]]
        return [
            opcode
            for index, opcode in enumerate(self.opcodes[loop[0] : loop[1] + 1], loop[0])
            if not any(first <= index <= last for first, last in inner)
        ]

    def issued(self, units: dict[str, float], rare: tuple[str, float] = ("", 1.0)) -> float:
        """Instructions that one warp executes.

        Args:
            units: pattern of an opcode -> how many of those the warp executes. A loop belongs to the first pattern
                that its own body (without inner loops) has, and runs as often as it takes.
            rare: pattern and share: the case of an if-else with such an opcode is executed in this share of the times.
        """
        seldom: set[int] = set()
        for index, opcode in enumerate(self.opcodes):
            if rare[0] and re.match(rare[0], opcode):
                # One that ends with a jump over the other case.
                around = [skip for skip in self.skips if skip[0] <= index < skip[1] and self.opcodes[skip[1]] == "BRA"]
                if around:
                    first, last = min(around, key=lambda skip: skip[1] - skip[0])
                    seldom.update(range(first, last + 1))
        runs = {loop: self._runs(loop, units) for loop in self.loops}
        total = 0.0
        for index in range(self.end):
            times = max((count for loop, count in runs.items() if loop[0] <= index <= loop[1]), default=1.0)
            total += times * (rare[1] if index in seldom else 1.0)
        return total

    def _runs(self, loop: tuple[int, int], units: dict[str, float]) -> float:
        own = self.body(loop)
        for pattern, count in units.items():
            if found := sum(bool(re.match(pattern, opcode)) for opcode in own):
                return max(count / found, 1.0)
        return 1.0


def parse(listing: str) -> dict[str, Kernel]:
    """The kernels in what nvdisasm prints, by mangled name."""
    kernels = {}
    for section in re.split(r"(?m)^//-+ \.text\.", listing)[1:]:
        name = section.split(None, 1)[0]
        opcodes, labels, branches = [], {}, []
        for line in section.splitlines():
            if label := re.match(r"^(\.L_x_\d+):", line):
                labels[label[1]] = len(opcodes)
            elif found := _LINE.match(line):
                if target := re.search(r"BRA.*`\((\.L_x_\d+)\)", found[3]):
                    branches.append((len(opcodes), target[1]))
                opcodes.append(found[3].split()[0])
        while opcodes and opcodes[-1] in ("NOP", "BRA"):  # padding behind the end
            opcodes.pop()
        loops = {(labels[target], at) for at, target in branches if labels.get(target, at + 1) <= at}
        loops = {loop for loop in loops if loop[1] < len(opcodes)}
        skips = {(at + 1, labels[target] - 1) for at, target in branches if labels.get(target, -1) > at + 1}
        kernels[name] = Kernel(tuple(opcodes), tuple(sorted(loops)), tuple(sorted(skips)))
    return kernels


def nvdisasm() -> Path:
    """Triton's wheel has it, the smallest CUDA toolkits have not."""
    import triton

    return Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"


def compile_kernels(source: str, arch: str = "90") -> dict[str, Kernel]:
    """The kernels of ``csrc/<source>`` as the extension's build compiles them for sm_<arch>."""
    sys.path[:0] = [str(ROOT / "csrc"), str(ROOT / "tools")]
    import build
    import cuda_spills

    root, _ = build.toolkit()
    with contextlib.redirect_stdout(sys.stderr):
        extension = build.extensions()[0]
    with tempfile.TemporaryDirectory() as folder:
        cubin = f"{folder}/kernels.cubin"
        extension.extra_compile_args["nvcc"] += ["-cubin", "-o", cubin]  # the last -o counts
        cuda_spills.compile_source(f"csrc/{source}", f"{arch[:-1]}.{arch[-1]}", root / "bin/nvcc", extension)
        listing = subprocess.run([nvdisasm(), "-c", cubin], capture_output=True, text=True, check=False).stdout
    return parse(listing)
