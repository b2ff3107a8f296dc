"""A pytest plugin: lines of JSON about each test as it happens, so that one which ends the process has a name."""

from __future__ import annotations

import json
import os
from pathlib import Path

LOG = "GANKERNELS_SELFTEST_LOG"


class _Recorder:
    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, **entry: object) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def pytest_collection_finish(self, session) -> None:
        for item in session.items:
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            backend = parameters.get("backend", parameters.get("forced", ""))
            operator = getattr(item.cls, "name", None) or Path(item.path).stem.removeprefix("test_")
            self.write(test=item.nodeid, operator=operator, backend=str(backend), name=item.name)

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self.write(test=report.nodeid, outcome="failed", message=str(report.longrepr), seconds=0.0)

    def pytest_runtest_logstart(self, nodeid) -> None:
        self.write(test=nodeid, outcome="crashed", message="the process ended in this test", seconds=0.0)

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            message = ""
            if report.skipped:
                message = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            elif report.failed:
                message = str(report.longrepr)
            self.write(test=report.nodeid, outcome=report.outcome, message=message, seconds=round(report.duration, 3))


def pytest_configure(config) -> None:
    config.pluginmanager.register(_Recorder(os.environ[LOG]), "gankernels-selftest")
