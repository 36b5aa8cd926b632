"""With CI=true, hold the run's skipped tests against tests/skips.txt."""

import os

import pytest

from tests import skip_list


class SkipListCheck:
    """Collects what ran and what was skipped (also from pytest-xdist's workers), compares at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.whole_suite = config.args_source == config.ArgsSource.TESTPATHS and not (
            config.option.keyword or config.option.markexpr
        )
        self.seen: set[str] = set()
        self.skipped: set[tuple[str, str]] = set()
        self.problems: list[str] = []

    def _add(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        test = report.nodeid.partition("[")[0]
        self.seen.add(test)
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skipped.add((test, " ".join(reason.removeprefix("Skipped: ").split())))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._add(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:  # a module that skips itself
            self._add(report)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        here = [
            entry for entry in skip_list.read(skip_list.FILE.read_text()) if skip_list.CONDITIONS[entry.condition]()
        ]
        whole_suite = self.whole_suite and exitstatus == pytest.ExitCode.OK
        self.problems = skip_list.compare(here, self.seen, self.skipped, whole_suite)
        if self.problems and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.problems:
            terminalreporter.section(f"tests/{skip_list.FILE.name} and this run disagree", red=True)
            for problem in self.problems:
                terminalreporter.line(problem)


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    if os.environ.get("CI") == "true" and not is_worker:
        config.pluginmanager.register(SkipListCheck(config), "fa_skip_list")
