"""`gankernels selftest`: reports that parse, failures and crashes that name their operator, and clear refusals."""

import json
import sys
import types

import pytest
import torch

from gankernels import _backend
from gankernels._shipped import shipped
from gankernels.selftest import benchmarks, checks, report, run
from gankernels.selftest.benchmarks import Timing
from gankernels.selftest.checks import Check

pytest.importorskip("tyro")
from gankernels.cli import main

needs_cpu = pytest.mark.skipif(_backend.native_error is not None, reason=str(_backend.native_error))


def selftest(out, *more):
    return main(["selftest", "--quick", "--only", "bias_act", "--out", str(out), *more])


@needs_cpu
def test_a_sound_machine_passes_and_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")  # a user's own, which is none of ours
    assert selftest(tmp_path / "new" / "folder") == 0
    told = capsys.readouterr().out
    assert "bias_act: " in told
    assert "cpu " in told
    found = json.loads((tmp_path / "new" / "folder" / "selftest.json").read_text())
    assert found["passed"]
    assert found["quick"]
    assert found["facts"]["torch"].startswith(torch.__version__)
    assert found["backends"]["bias_act"]["cpu"] == "usable"
    outcomes = {(c["backend"], c["outcome"]) for c in found["checks"]}
    assert {("cpu", "passed"), ("reference", "passed")} <= outcomes
    assert not [c for c in found["checks"] if c["outcome"] in ("failed", "crashed")]
    assert all(c["operator"] == "bias_act" for c in found["checks"])
    assert all(c["message"] for c in found["checks"] if c["outcome"] == "skipped")
    assert [t["order"] for t in found["timings"]] == ["forward", "forward+backward"]
    for timing in found["timings"]:
        assert set(timing["milliseconds"]) >= {"eager", "cpu" if not torch.cuda.is_available() else "eager"}
        for backend, ratios in timing["ratios"].items():
            assert ratios["PyTorch"] == pytest.approx(
                timing["milliseconds"]["eager"] / timing["milliseconds"][backend], rel=1e-3
            )
    text = (tmp_path / "new" / "folder" / "selftest.md").read_text()
    for words in ("**everything passed**", "## What each backend can do here", "| bias_act | cpu |", "## Times"):
        assert words in text
    assert "What went wrong" not in text


def sabotage(tmp_path, monkeypatch, result):
    """In every Python process started from now on, bias_act on the cpu backend gives `result` of its y."""
    (tmp_path / "sitecustomize.py").write_text(
        "from gankernels import _backend, ops\n"
        "import os\n"
        "sound = ops.bias_act\n"
        "def unsound(*args, **kwargs):\n"
        "    y = sound(*args, **kwargs)\n"
        f"    return {result} if _backend._forced == 'cpu' else y\n"
        "ops.bias_act = unsound\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@needs_cpu
def test_a_wrong_operator_fails_and_is_named(tmp_path, monkeypatch, capsys):
    sabotage(tmp_path, monkeypatch, "y * 1.001")
    assert selftest(tmp_path, "--no-benchmarks") == 1
    told = capsys.readouterr().out
    assert "FAILED bias_act cpu test_values_and_gradients[cpu-float32]: failed" in told
    found = json.loads((tmp_path / "selftest.json").read_text())
    assert not found["passed"]
    assert {(c["operator"], c["backend"]) for c in found["checks"] if c["outcome"] == "failed"} == {("bias_act", "cpu")}
    text = (tmp_path / "selftest.md").read_text()
    assert "### bias_act cpu test_values_and_gradients" in text
    assert "off by" in text


@needs_cpu
def test_a_crash_is_named_and_ends_no_more_than_its_file(tmp_path, monkeypatch, capsys):
    sabotage(tmp_path, monkeypatch, "os._exit(77)")
    assert selftest(tmp_path, "--no-benchmarks") == 1
    assert "bias_act cpu test_" in capsys.readouterr().out
    found = json.loads((tmp_path / "selftest.json").read_text())
    (crashed,) = [c for c in found["checks"] if c["outcome"] == "crashed"]
    assert (crashed["operator"], crashed["backend"]) == ("bias_act", "cpu")


def test_tests_that_cannot_start_are_a_failure(tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_bias_act.py").write_text("import no_such_module\n")
    monkeypatch.setattr(checks, "shipped", lambda *_: tmp_path / "tests")
    found = checks.run("bias_act", quick=True)
    assert [c.outcome for c in found] == ["failed"]
    assert "no_such_module" in found[0].message


def test_tests_that_hang_are_ended(tmp_path, monkeypatch):
    (tmp_path / "test_bias_act.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(checks, "shipped", lambda *_: tmp_path)
    monkeypatch.setattr(checks, "PATIENCE", 0.5)
    (only,) = checks.run("bias_act", quick=True)
    assert only.outcome == "crashed"
    assert "did not end within" in only.message


def test_every_operator_has_tests_to_run():
    homes = {_backend.home(op) for op in _backend.operators() if not op.startswith("square_")}
    assert {home for home in homes if not home.startswith("_")} <= set(checks.stems())  # layers' tests cover _adjoints
    assert checks.stems(["conv_transpose2d", "bias_act", "conv2d"]) == ["bias_act", "conv2d"]


def test_the_quick_tests_exist():
    battery = (shipped("tests", "op_tests.py") / "op_tests.py").read_text()
    for words in checks.QUICK.split(" or "):
        assert words in battery


def refused(capsys, *arguments):
    assert main(["selftest", *arguments]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_is_refused(tmp_path, monkeypatch, capsys):
    assert "no_such is no operator, expected some of " in refused(capsys, "--only", "no_such")
    (tmp_path / "file").touch()
    assert "cannot be made a folder" in refused(capsys, "--out", str(tmp_path / "file" / "below"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "hypothesis", None)
        assert "extra 'selftest'" in refused(capsys)


def test_a_benchmark_that_fails_is_reported(tmp_path, monkeypatch):
    (tmp_path / "bench_good.py").write_text(
        "import torch\nfrom bench_tools import Case\n"
        "bad = lambda x: (_ for _ in ()).throw(ValueError('wrong'))\n"
        "make = lambda: [torch.ones(3)]\n"
        "CASES = [Case('bias_act a', make, {'eager': bad}), Case('bias_act b', make, {'eager': torch.relu})]\n"
    )
    (tmp_path / "bench_broken.py").write_text("raise ValueError('at import')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(shipped("benchmarks", "bench_tools.py")))
    monkeypatch.setattr(benchmarks, "shipped", lambda *_: tmp_path)
    found = list(benchmarks.run("good", quick=False))
    assert [bool(t.error) for t in found] == [True] * 3 + [False] * 3
    assert "ValueError: wrong" in found[0].error
    assert found[3].milliseconds.keys() == {"eager"}
    assert "at import" in next(benchmarks.run("broken", quick=True)).error
    assert not list(benchmarks.run("absent", quick=True))
    passed = Check("bias_act", "cpu", "test", "passed", "", 0.0)
    assert report.failures([passed], found) == [
        f"good benchmark bias_act a {o}: failed" for o in ("forward", "forward+backward", "second order")
    ]


def test_ratios_and_verdicts():
    times = {"eager": 4.0, "eager channels_last": 3.0, "compiled": 2.0, "cuda": 1.0, "triton": 2.0}
    timing = Timing("bias_act", "bias_act [1|2]", "forward", "cuda", times)
    assert timing.ratios == {
        "cuda": {"PyTorch": 3.0, "torch.compile": 2.0},
        "triton": {"PyTorch": 1.5, "torch.compile": 1.0},
    }
    passed = Check("bias_act", "cuda", "test", "passed", "", 0.1)
    assert report.failures([passed], [timing]) == []
    assert report.failures([], [timing]) == ["no check has passed"]
    skipped = Check("bias_act", "cuda", "test", "skipped", "why", 0.0)
    assert report.failures([skipped], []) == ["no check has passed"]
    failed = Check("bias_act", "cuda", "other", "failed", "```\n" + "x" * 9999, 0.1)
    gathered = report.gathered([passed, failed], [timing], False, 1.0)
    text = report.markdown(json.loads(json.dumps(gathered)), [passed, failed], [timing])
    assert "bias_act [1\\|2]" in text
    assert "**1 went wrong**" in text
    assert text.count("```") == 2
    assert len(text) < 9999


def test_a_gpu_is_timed_between_events_after_a_flush(monkeypatch):
    monkeypatch.syspath_prepend(str(shipped("benchmarks", "bench_tools.py")))
    import bench_tools

    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        record = lambda self: done.append("record")  # noqa: E731
        synchronize = lambda self: done.append("wait")  # noqa: E731
        elapsed_time = lambda self, other: 2500.0  # noqa: E731

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: done.append("synchronize"))
    flush = types.SimpleNamespace(device="cuda", zero_=lambda: done.append("flush"))
    assert bench_tools._on_gpu(lambda: done.append("call"), flush) == 2.5
    assert done == ["synchronize", *["flush"] * 4, "record", "call", "record", "wait"]


def test_interleaving_is_fair():
    sys.path.insert(0, str(shipped("benchmarks", "bench_tools.py")))
    import bench_tools

    sys.path.pop(0)
    seen = []
    calls = {name: lambda name=name: seen.append(name) for name in "abc"}
    medians = bench_tools.interleave(calls, 0.0)
    assert medians.keys() == calls.keys()
    rounds = [tuple(seen[i : i + 3]) for i in range(3, len(seen), 3)]
    assert len(rounds) == 15
    assert all(set(one) == set("abc") for one in rounds)
    assert len(set(rounds)) > 1
    assert run.selftest  # the entry that cli calls
