"""Compiled kernels are kept on disk: found again, made anew where spoilt or outdated, safe between processes."""

import json
import os
import shutil
import subprocess
import sys
import warnings

import pytest
from gpu.fake_cupy import real_cupy_  # noqa: F401  the fixture real_cupy

from gankernels import _nvrtc

KERNEL = "gk::bias_act_sums<float>"


@pytest.fixture
def compilations(real_cupy, monkeypatch):
    """Counts what NVRTC is asked to compile."""
    made = []
    compile = _nvrtc._compile
    monkeypatch.setattr(_nvrtc, "_compile", lambda *args: made.append(args) or compile(*args))
    return made


def test_what_was_compiled_is_kept(compilations, tmp_path):
    first = _nvrtc.compile("bias_act", KERNEL, "80")
    assert first.path.parent == tmp_path / "cache"
    assert _nvrtc.compile("bias_act", KERNEL, "80") == first
    assert len(compilations) == 1
    assert sorted(p.suffix for p in first.path.parent.iterdir()) == [".cubin", ".json"]


@pytest.mark.parametrize("spoil", ["code", "code gone", "entry", "entry of nonsense", "entry of another kind"])
def test_a_spoilt_entry_is_made_anew(compilations, spoil):
    first = _nvrtc.compile("bias_act", KERNEL, "80")
    entry = next(first.path.parent.glob("*.json"))
    if spoil == "code":
        first.path.write_bytes(first.path.read_bytes()[:1000])
    elif spoil == "code gone":
        first.path.unlink()
    else:
        text = {"entry": entry.read_text()[:20], "entry of nonsense": "[]", "entry of another kind": '{"file": 3}'}
        entry.write_text(text[spoil])
    again = _nvrtc.compile("bias_act", KERNEL, "80")
    assert len(compilations) == 2
    assert _nvrtc.digest(again.path) == json.loads(entry.read_text())["digest"]
    assert again.path.read_bytes().startswith(b"\x7fELF")


def test_the_key_holds_sources_target_options_and_nvrtc(compilations, monkeypatch, tmp_path):
    root = tmp_path / "csrc"
    shutil.copytree(_nvrtc.sources(), root)
    made = [_nvrtc.compile("bias_act", KERNEL, "80", root)]
    with (root / "cuda" / "divider.h").open("a") as file:
        file.write("// a change in a header\n")
    made.append(_nvrtc.compile("bias_act", KERNEL, "80", root))
    made.append(_nvrtc.compile("bias_act", KERNEL, "90", root))
    made.append(_nvrtc.compile("bias_act", "gk::bias_act_sums<__half>", "80", root))
    monkeypatch.setattr(_nvrtc, "OPTIONS", ("--std=c++17", "--use_fast_math"))
    made.append(_nvrtc.compile("bias_act", KERNEL, "80", root))
    monkeypatch.setattr(_nvrtc, "version", lambda: "99.0")
    made.append(_nvrtc.compile("bias_act", KERNEL, "80", root))
    assert len(compilations) == len({one.path.name.split("-")[0] for one in made}) == len(made)


def test_a_folder_that_cannot_be_written_to(compilations, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GANKERNELS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="cannot be kept in .* Set GANKERNELS_CACHE"):
        first = _nvrtc.compile("bias_act", KERNEL, "80")
    assert first.path.read_bytes().startswith(b"\x7fELF")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _nvrtc.compile("bias_act", KERNEL, "80") == first
    assert len(compilations) == 1


def test_a_disk_that_fills_leaves_nothing_half_written(real_cupy, monkeypatch, tmp_path):
    target = tmp_path / "entry"

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        _nvrtc.replace(target, b"data")
    assert not list(tmp_path.glob("entry*"))


def test_processes_at_once(real_cupy, tmp_path):
    code = (
        "from gankernels import _nvrtc\n"
        f"found = _nvrtc.compile('bias_act', {KERNEL!r}, '80')\n"
        "print(_nvrtc.digest(found.path), found.symbol)"
    )
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len({line.split()[1] for line in printed}) == 1
    entries = list((tmp_path / "cache").glob("*.json"))
    assert len(entries) == 1
    assert {p.suffix for p in (tmp_path / "cache").iterdir()} == {".json", ".cubin"}
    assert _nvrtc._read(tmp_path / "cache", entries[0].stem)
