"""The command line: `gankernels train | generate | evaluate | convert | export | demo | lab | doctor | selftest`."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from gankernels.cli_convert import Convert, Export
from gankernels.cli_evaluate import Evaluate
from gankernels.cli_generate import Generate
from gankernels.errors import ConfigError, InputError, ProcessLost, TrainingDiverged, need
from gankernels.training import PRESETS, RECIPES, Result, TrainConfig, make_progress, train
from gankernels.training.networks import read
from gankernels.training.presets import PresetName
from gankernels.training.processes import environment

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130


@dataclass
class Train:
    """Train a GAN; leaves samples, curves, metrics and checkpoints in a folder."""

    config: TrainConfig
    preset: PresetName | None = None
    """Start from a named configuration; the options given beside it win."""
    resume: Path | None = None
    """Go on from a checkpoint, or from the newest one of a run's folder."""
    overwrite: bool = False
    """Replace an earlier run in the same folder."""

    def run(self) -> int:
        result = train(self.config, make_progress(), resume=self.resume, overwrite=self.overwrite)
        if not result.interrupted and environment()[0] == 0:
            print(f"trained on {result.images} images in {result.seconds:.0f} s; the run is in {result.folder}")
        return _ended(result)


@dataclass
class Demo:
    """Show doctor, time our operators beside PyTorch's, and train the preset demo."""

    out: Path = Path("runs/demo")
    """Folder of the run; an earlier demo in it is replaced."""

    def run(self) -> int:
        from gankernels.training.demo import demo

        return _ended(demo(self.out))


@dataclass
class Lab:
    """Compute which methods converge, on small games: the lectures' table beside ours, as Markdown and pictures."""

    out: Path = Path("lab")
    """Folder to write to."""
    only: Literal["convergence", "ring"] = "convergence"
    """convergence: the table, distances and progress, about a minute. ring: mode collapse on a ring of Gaussians."""

    def run(self) -> int:
        from gankernels.lab import lab

        for path in lab(self.out, self.only):
            print(f"wrote {path}")
        return 0


@dataclass
class Doctor:
    """Tell what this machine has, and which backends of which operators work on it."""

    def run(self) -> int:
        from gankernels import _doctor

        print(_doctor.report())
        return 0


@dataclass
class Selftest:
    """Run the operators' tests and benchmarks on this machine; leaves a report to attach to an issue."""

    out: Path = Path(".")
    """Folder for selftest.md and selftest.json."""
    quick: bool = False
    """The most telling tests, and one benchmark case of each operator without torch.compile."""
    only: tuple[str, ...] = ()
    """Operators to test; all unless given."""
    benchmarks: bool = True
    """Time the operators too."""

    def run(self) -> int:
        from gankernels.selftest import selftest

        return 0 if selftest(self.out, self.quick, self.only, self.benchmarks) else FAILED


def _ended(result: Result) -> int:
    """The exit code of a run; of an interrupted one also says how to go on with it."""
    if not result.interrupted:
        return 0
    if environment()[0] == 0:
        print(f"interrupted after step {result.step}; saved {result.checkpoint}")
        print(f"continue with: gankernels train --resume {result.folder}")
    return INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Started by torchrun, the first of the processes speaks for all where all know the same.

    Returns:
        The exit code: 0; 1 where a run diverged, lost a process, or selftest failed; 2 where what was asked cannot be;
        130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments == ["doctor"]:  # must work without the optional packages whose absence it may have to tell
            return Doctor().run()
        return _parse(arguments).run()
    except InputError as error:
        # What one process found alone, before it met the others, nobody else can say.
        _complain(error, everywhere=not error.shared)
        return USER_ERROR
    except TrainingDiverged as error:
        _complain(f"training diverged at {error}")
        return FAILED
    except ProcessLost as error:
        print(f"gankernels: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("gankernels: interrupted at once; nothing was saved after the last checkpoint", file=sys.stderr)
        return INTERRUPTED


def _complain(what: object, everywhere: bool = False) -> None:
    if everywhere or environment()[0] == 0:
        print(f"gankernels: {what}", file=sys.stderr)


def _parse(arguments: list[str]) -> Any:
    tyro = need("tyro", "train")
    start = Train(_starting_config(arguments)) if arguments[:1] == ["train"] else Train(TrainConfig())
    commands = {
        "train": Train,
        "generate": Generate,
        "evaluate": Evaluate,
        "convert": Convert,
        "export": Export,
        "demo": Demo,
        "lab": Lab,
        "doctor": Doctor,
        "selftest": Selftest,
    }

    def command(name: str, kind: type) -> Any:
        if kind is Train:
            return Annotated[kind, tyro.conf.subcommand(name, default=start)]
        one = Annotated[kind, tyro.conf.subcommand(name)]
        return tyro.conf.PositionalRequiredArgs[one] if kind in (Convert, Export) else one

    types = [command(name, kind) for name, kind in commands.items()]
    return tyro.cli(
        functools.reduce(operator.or_, types),
        prog="gankernels",
        description="Train GANs composed of gankernels' operators, and look at what they learned.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _starting_config(arguments: list[str]) -> TrainConfig:
    """The defaults of `train`'s options: those of the preset, the model or the checkpoint that the arguments name."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--preset")
    early.add_argument("--model")
    early.add_argument("--resume", type=Path)
    try:
        given, _ = early.parse_known_args(arguments[1:])
    except argparse.ArgumentError:  # an option without its value: the parser proper says so
        return TrainConfig()
    if given.resume is None:
        return PRESETS.get(given.preset, RECIPES.get(given.model, TrainConfig()))
    if given.preset is not None:
        raise ConfigError("--preset and --resume exclude each other: a resumed run keeps its configuration")
    file, _, stored = read(given.resume)
    # The run goes on where it lies, also after its folder was moved.
    return dataclasses.replace(stored, out=file.parent.parent)
