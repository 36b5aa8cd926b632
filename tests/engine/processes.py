"""Test processes that start in milliseconds: forked from a server that has everything imported and has done nothing."""

import multiprocessing
import socket

START = "forkserver"
CONTEXT = multiprocessing.get_context(START)
CONTEXT.set_forkserver_preload(["fa_detectron.engine", "detectron2.evaluation", "tests.engine.tiny"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
