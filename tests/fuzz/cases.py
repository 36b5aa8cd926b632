"""What all fuzz tests share: how many examples, nasty values, and a watch over what an example may do.

``FA_FUZZ_EXAMPLES`` is the number of examples a test; without it 40, always the same, seconds in all. ``make soak``
runs each target for ten minutes and more. ``FA_FUZZ_CASE`` names a file that gets each example before it runs, for
those that end the process.
"""

import copy
import faulthandler
import os
import random
import resource
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FA_FUZZ_EXAMPLES", "40"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    derandomize="FA_FUZZ_EXAMPLES" not in os.environ,
)
HANG = 60  # seconds that no example needs
_MEMORY = 6 << 30  # bytes that an example may ask for on top of what the process has

# JSON values (and thus texts and numbers of any format) that readers tend not to expect.
NASTY_NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 1e308, -1e308, 5e-324, 0.5, float("nan"), float("inf")]
NASTY_TEXTS = ["", " ", "0", "../x", "/etc/passwd", "a/../../x", "~", ".", "..", "x" * 5000, "\0", "\ud800", "٣",
               "1e999",
               "{0.__class__}", "%s%n", "\x1b[2J", "-", "con", "a\nb", "{[]: 1}", "(" * 300, "!!python/name:os.system",
               "&a [*a]", "<x/>", "9" * 5000]  # fmt: skip
nasty = st.one_of(
    st.sampled_from([*NASTY_NUMBERS, *NASTY_TEXTS, None, True, False, [], {}, [[[]]], {"a": {}}, [None] * 5]),
    st.integers(-3, 100),
    st.floats(width=64),
    st.text(max_size=8),
    st.lists(st.one_of(st.integers(-5, 99), st.floats(), st.none()), max_size=6),
)


def mutate_json(draw, value):
    """``value`` (lists and dicts of plain values) with one to four places replaced, removed or doubled, in place."""
    for _ in range(draw(st.integers(1, 4))):
        node = value
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            child = node[key]
            if isinstance(child, (dict, list)) and child and draw(st.integers(0, 3)):
                node = child
                continue
            action = draw(st.integers(0, 5))
            if action == 0:
                del node[key]
            elif action == 1 and isinstance(node, list):
                node.append(copy.deepcopy(child))
            else:
                node[key] = copy.deepcopy(draw(nasty))  # the list above must stay as it is
            break
    return value


def mutate_bytes(draw, data: bytes) -> bytes:
    """``data`` with some bytes changed, removed, inserted, doubled or cut off."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 30))
        action = draw(st.integers(0, 5))
        if action == 0:
            data[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif action == 1:
            del data[place : place + length]
        elif action == 2:
            data[place:place] = draw(st.binary(max_size=12))
        elif action == 3:
            data[place:place] = data[place : place + length]
        elif action == 4:
            data[place : place + 4] = draw(
                st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
            )
        elif draw(st.integers(0, 3)) == 0:
            del data[place:]
    return bytes(data)


_watched: list[tuple[str, ...]] = []  # the folders that may be read, while an example runs
_READABLE = tuple(
    os.path.join(os.path.realpath(path), "")
    for path in {
        sys.prefix,
        sys.base_prefix,
        *sysconfig.get_paths().values(),
        os.path.dirname(os.path.dirname(__file__)),
    }
)
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "os.remove",
              "os.rename", "os.rmdir", "os.chmod", "os.symlink", "os.link", "shutil.", "ctypes.dlopen",
              "pty.")  # fmt: skip


def _watch(event: str, arguments: tuple) -> None:
    if not _watched:
        return
    if event.startswith(_FORBIDDEN):
        raise AssertionError(f"an example did {event} {arguments!r:.200}")
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path, mode, flags = os.path.realpath(os.fsdecode(arguments[0])), arguments[1], arguments[2]
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(flags, int) else "r" not in (mode or "r")
        if path.startswith(("/proc/", "/sys/", "/dev/")) or (path.startswith(_READABLE) and not writes):
            return
        if writes or not path.startswith(_watched[-1]):
            raise AssertionError(f"an example opened {path} ({mode or flags})")


sys.addaudithook(_watch)


@contextmanager
def example(case: object, *folders: str | os.PathLike) -> Iterator[None]:
    """Run an example under watch: it reads below ``folders`` only, writes nothing, starts nothing, ends in time."""
    record = os.environ.get("FA_FUZZ_CASE")
    if record:
        with open(record, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(repr(case))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, hard))
    faulthandler.dump_traceback_later(HANG, exit=True)
    _watched.append(tuple(os.path.join(os.path.realpath(path), "") for path in folders))
    try:
        yield
    finally:
        _watched.pop()
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def fresh_random(draw) -> random.Random:
    """A generator for what is too bulky to draw."""
    return random.Random(draw(st.integers(0, 2**32)))
