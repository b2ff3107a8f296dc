"""What the tests of training share: a small image folder, a small configuration, a run in a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import torch

from gankernels import data
from gankernels.training import PlainProgress, TrainConfig, train
from gankernels.training.checkpoint import load
from gankernels.training.networks import build
from gankernels.training.trainer import Trainer

TINY = {"resolution": 16, "channels": 1, "width": 4, "batch": 8, "ema": 100.0, "mirror": True}
"""50 images make an epoch of 6 1/4 batches: steps 3 and 10 both lie within one."""


def image_folder(folder: Path, count: int = 50) -> Path:
    from PIL import Image

    pixels = torch.randint(0, 256, (count, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for i, one in enumerate(pixels):
        Image.fromarray(one.numpy()).save(folder / f"{i:03}.png")
    return folder


def tiny(source: Path, out: Path, steps: int, **options) -> TrainConfig:
    every = {"log_every": 32, "sample_every": 40, "checkpoint_every": 24}
    options = {**TINY, **every, **options}
    images = steps * options["batch"] * options.get("d_steps", 1)
    return TrainConfig(data=str(source), out=out, images=images, **options)


def trainer(images: Path, **options) -> Trainer:
    """The trainer of a `tiny` configuration, before its first step."""
    config = tiny(images, images.parent / "unused", 1, **options)
    config.check()
    loaded = data.load(config.data, resolution=config.resolution, channels=config.channels)
    return Trainer(config, loaded, *build(config, loaded.channels))


def metrics(folder: Path) -> list[dict]:
    """What a run wrote of its losses, without its clocks."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


def run(config: TrainConfig, **options):
    return train(config, PlainProgress(), **options)


def same(a, b, name: str = "", leaves=None) -> None:
    """Assert that two trees of dicts, lists, tensors and values are equal, or as `leaves` asserts of two of them."""
    assert type(a) is type(b), name
    if isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            same(a[key], b[key], f"{name}.{key}", leaves)
    elif isinstance(a, list):
        assert len(a) == len(b), name
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{name}[{i}]", leaves)
    elif leaves is not None:
        leaves(a, b, name)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


def same_checkpoints(a: Path, b: Path) -> None:
    """Assert that two checkpoints hold the same, but for folders, clocks and the length that was asked for."""
    states = [load(a), load(b)]
    for state in states:
        del state["seconds"]
        for free in ("out", "images", "backend"):
            del state["config"][free]
    same(*states)


def start(arguments: list[str], before: str = "") -> subprocess.Popen:
    """`gankernels ARGUMENTS` in a process of its own, after the Python lines `before`."""
    code = f"import sys, torch\ntorch.set_num_threads({torch.get_num_threads()})\n{before}\n"
    code += f"from gankernels.cli import main\nsys.exit(main({arguments!r}))"
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def wait_for(ready, process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait until ready() or fail with what the process wrote."""
    end = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"not ready; exit code {process.poll()}:\n{process.communicate()[0]}")
        time.sleep(0.02)


def arguments_of(config: TrainConfig) -> list[str]:
    """The command line of a `tiny` configuration."""
    given = ["train"]
    for name, value in config.to_json().items():
        if value is None or name in ("betas",):
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            given.append(option if value else option.replace("--", "--no-", 1))
        else:
            given += [option, str(value)]
    return given


_MARK = "GANKERNELS_TEST_RUN"


def torchrun(arguments: list[str], processes: int = 2) -> subprocess.Popen:
    """`torchrun --nproc-per-node PROCESSES ARGUMENTS` on a free port; to be ended by `end`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    mark = str(uuid.uuid4())
    environment = os.environ | {"OMP_NUM_THREADS": "1", _MARK: mark}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([*command, *arguments], env=environment, **pipes)
    process.mark = mark
    return process


def workers(process: subprocess.Popen) -> dict[int, int]:
    """{rank: number of the process} of those that `torchrun` has started, each in a session of its own."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            variables = dict(one.partition(b"=")[::2] for one in (folder / "environ").read_bytes().split(b"\0"))
        except OSError:  # gone, or no process
            continue
        if variables.get(_MARK.encode()) == process.mark.encode() and b"RANK" in variables:
            found[int(variables[b"RANK"])] = int(folder.name)
    return found


def end(process: subprocess.Popen) -> None:
    """Kill what `torchrun` started and all that that started, if it is still there."""
    for number in [process.pid] if process.poll() is None else []:
        os.kill(number, signal.SIGKILL)
    for number in workers(process).values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.communicate()
