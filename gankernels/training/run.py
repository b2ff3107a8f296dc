"""A run from its first or a saved step to its end: schedule, files, interruptions."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import gankernels
from gankernels import data
from gankernels.errors import ConfigError, InputError, ProcessLost, TrainingDiverged
from gankernels.training import pictures
from gankernels.training.checkpoint import all_checkpoints, checkpoint_path, save, tidy
from gankernels.training.conditions import class_count
from gankernels.training.config import TrainConfig, resumed
from gankernels.training.folder import bring_best, check_place, clear
from gankernels.training.metrics_log import MetricsLog, read_metrics
from gankernels.training.networks import build, load_networks, read
from gankernels.training.processes import Processes, joined
from gankernels.training.progress import Progress, Silent, Speed, Status
from gankernels.training.trainer import Trainer
from gankernels.training.watch import Watch, best_path

SAMPLES = 64
COLUMNS = 8


@dataclass(frozen=True)
class Result:
    """Where a run ended: its folder, last checkpoint and step, and whether it was interrupted."""

    folder: Path
    checkpoint: Path
    step: int
    images: int
    seconds: float
    interrupted: bool


def train(config: TrainConfig, progress: Progress, *, resume: Path | None = None, overwrite: bool = False) -> Result:
    """Train, and leave in config.folder(): config.json, metrics.jsonl, checkpoints/, samples/, samples.gif,
    samples-over-time.png and curves.png.

    SIGINT (Ctrl-C) and SIGTERM end the run after the step in hand with a checkpoint; a second Ctrl-C ends it at once.
    Started by torchrun it is one run of all processes, of which the first writes the files and shows progress.

    Args:
        config: the run; on resuming it may differ from the checkpoint's in `FREE_ON_RESUME` alone.
        progress: shows the run; it is closed in the end.
        resume: a checkpoint or a run's folder to go on from, on the CPU bit for bit.
        overwrite: delete the pictures, metrics and checkpoints of an earlier run in the same folder.

    Raises:
        InputError: the run cannot start, said before its first step.
        TrainingDiverged: a loss or gradient became NaN or infinite; the message names step, parameter and the last
            checkpoint, which is kept.
        ProcessLost: another process ended or hangs.
    """
    try:
        config.check()
        with (
            contextlib.nullcontext() if config.backend == "auto" else gankernels.backend(config.backend),
            joined(config.device, config.process_timeout) as processes,
        ):
            try:
                run = _start(config, progress if processes.first else Silent(), resume, overwrite, processes)
            except InputError as error:
                processes.agree(error)
                raise
            processes.agree(None, run.fact())
            processes.lead(run.prepare)
            with _interruptible() as interrupted:
                return run.go(interrupted)
    finally:
        progress.close()


def _start(config: TrainConfig, progress: Progress, resume: Path | None, overwrite: bool, processes: Processes) -> _Run:
    config.torch_device()
    folder = config.folder()
    if resume is None:
        channels = config.channels or data.default_channels(config.data)
        images = data.load(config.data, resolution=config.resolution, channels=channels) if config.classes else None
        networks = build(config, channels, class_count(config, images) if config.classes else 0)
        if all_checkpoints(folder) and not overwrite:
            raise ConfigError(
                f"{folder} already holds a run; continue it with --resume {folder}, replace it with --overwrite, "
                f"or name another folder with --out"
            )
    else:
        file, state, stored = read(resume)
        config = resumed(stored, config)
        channels = state["channels"]
        networks = load_networks(file, state, config)
        check_place(folder, file, state["step"])
    if resume is not None or images is None:
        images = data.load(config.data, resolution=config.resolution, channels=channels)
    for note in images.notes:
        progress.say(note)
    torch.manual_seed(config.seed)
    trainer = Trainer(config, images, *networks, processes)
    _check_backend(trainer)
    seconds, history, origin = 0.0, [], None
    if resume is not None:
        for note in trainer.load(state, str(file)):
            progress.say(note)
        seconds = state["seconds"]
        origin = file.parent.parent
        history = read_metrics(origin / "metrics.jsonl", until=trainer.step_count)
        progress.say(f"resuming {file} at step {trainer.step_count}, {trainer.images} images")
    return _Run(trainer, folder, progress, seconds, history, origin, overwrite and resume is None)


class _Run:
    """A run in the memory of one process; of several the first alone has `log` and `watch`, and writes files."""

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        progress: Progress,
        seconds: float,
        history: list,
        origin: Path | None,
        clear: bool,
    ) -> None:
        self.trainer, self.folder, self.progress = trainer, folder, progress
        self.processes, self.history, self.origin, self.clear = trainer.processes, history, origin, clear
        self.log: MetricsLog | None = None
        self.watch: Watch | None = None
        self.before, self.began = seconds, time.monotonic()

    def fact(self) -> str:
        """What all processes must have in common, in a line."""
        settings = json.dumps(self.trainer.config.to_json())
        run = hashlib.blake2b(settings.encode(), digest_size=8).hexdigest()
        return f"configuration {run}, data {self.trainer.data.digest()}, step {self.trainer.step_count}"

    def prepare(self) -> None:
        """Make the folder ready."""
        folder, config = self.folder, self.trainer.config
        if config.metrics_every:  # before anything is cleared: packages may be missing
            self.watch = Watch(config, self.trainer.data, self.history)
        if self.clear:
            clear(folder)
        try:
            (folder / "samples").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write to {folder} ({error.strerror}); name another folder with --out") from error
        for path in (folder / "samples").glob("*.png"):
            if path.stem.isdigit() and int(path.stem) > self.trainer.step_count:
                path.unlink()
        (folder / "config.json").write_text(json.dumps(config.to_json(), indent=2) + "\n", encoding="utf-8")
        self.log = MetricsLog(folder, self.history)
        has_best = self.origin is not None and bring_best(self.origin, folder, self.trainer.step_count)
        if self.watch is not None and not has_best:
            self.watch.forget()

    @property
    def seconds(self) -> float:
        """Time spent on the run, earlier sittings included."""
        return self.before + time.monotonic() - self.began

    def go(self, interrupted: threading.Event) -> Result:
        trainer, config = self.trainer, self.trainer.config
        limit = float("inf") if config.minutes is None else 60 * config.minutes
        speed = Speed(trainer.images)
        saved = None
        try:
            lead = self.processes.lead
            if trainer.step_count == 0:
                lead(self.draw)
            while trainer.step_count < config.steps:
                stopped, late = self.processes.sums([interrupted.is_set(), self.seconds >= limit])
                if stopped or late:
                    break
                before = trainer.images
                trainer.step()
                if _passed(config.log_every, before, trainer.images):
                    self.show(speed, limit)
                if _passed(config.sample_every, before, trainer.images):
                    lead(self.draw)
                if _passed(config.checkpoint_every, before, trainer.images):
                    lead(self.save)
                    saved = trainer.step_count
                if config.metrics_every and _passed(config.metrics_every, before, trainer.images):
                    lead(self.measure)
            if saved != trainer.step_count:
                lead(self.save)
            stopped = self.processes.any(interrupted.is_set()) and trainer.step_count < config.steps
            if not stopped:
                lead(self.finish)
        except (TrainingDiverged, ProcessLost) as error:
            kept = all_checkpoints(self.folder)[-1:]
            where = f"the last good checkpoint is {kept[0]}" if kept else "there was no checkpoint yet"
            raise type(error)(f"{error}; {where}") from error
        finally:
            if self.log is not None:
                self.log.close()
        newest = checkpoint_path(self.folder, trainer.step_count)
        return Result(self.folder, newest, trainer.step_count, trainer.images, self.seconds, stopped)

    def show(self, speed: Speed, limit: float) -> None:
        trainer = self.trainer
        rate = speed.at(trainer.images)
        means = trainer.take_metrics()
        if self.log is None:
            return
        line = {"step": trainer.step_count, "images": trainer.images, **means}
        self.log.write(line | {"images_per_second": round(rate, 1), "seconds": round(self.seconds, 2)})
        total = trainer.config.steps * trainer.config.images_per_step
        left = min((total - trainer.images) / rate, limit - self.seconds)
        self.progress.update(
            Status(trainer.step_count, trainer.images, total, means["d_loss"], means["g_loss"], rate, max(left, 0.0))
        )

    def draw(self) -> None:
        trainer = self.trainer
        image = pictures.grid(trainer.samples(SAMPLES), COLUMNS)
        image.save(self.folder / "samples" / f"{trainer.step_count:08}.png")
        self.log.picture("samples", image, trainer.step_count)

    def measure(self) -> None:
        """A line of the metric, and the checkpoint of its best value."""
        trainer, watch = self.trainer, self.watch
        value = watch.measure(trainer)
        best = watch.better(value)
        if best:
            save(best_path(self.folder), trainer.state() | {"seconds": self.seconds})
        self.log.write({"step": trainer.step_count, "images": trainer.images, watch.metric: value})
        note = f"; the best so far, kept as {best_path(self.folder)}" if best else ""
        self.progress.say(f"{watch.metric} {value:.5f} after {trainer.images} images{note}")

    def save(self) -> None:
        path = checkpoint_path(self.folder, self.trainer.step_count)
        save(path, self.trainer.state() | {"seconds": self.seconds})
        tidy(self.folder, self.trainer.config.keep, self.trainer.step_count)

    def finish(self) -> None:
        """The last grid, the curves and the history of the samples."""
        self.draw()
        pictures.curves(self.log.lines, self.folder / "curves.png")
        frames = sorted(path for path in (self.folder / "samples").glob("*.png") if path.stem.isdigit())
        gif, strip = self.folder / "samples.gif", self.folder / "samples-over-time.png"
        pictures.history(frames, gif, strip, rows=-(-SAMPLES // COLUMNS))


def _passed(every: int, before: int, now: int) -> bool:
    return before // every < now // every


def _check_backend(trainer: Trainer) -> None:
    """Raise ConfigError where the forced backend cannot run the networks, before anything is written."""
    if trainer.config.backend == "auto":
        return
    reason = gankernels.why_not(trainer.config.backend, trainer.device)
    if reason is not None:
        raise ConfigError(f"--backend {trainer.config.backend} cannot run: {reason}")
    network = copy.deepcopy(trainer.discriminator).eval()
    c = trainer.conditions.in_turn(1) if trainer.config.judges_classes else None
    try:
        with torch.no_grad():
            network(trainer.samples(1), *([] if c is None else [c]))
    except RuntimeError as error:
        raise ConfigError(f"--backend {trainer.config.backend}: {error}") from error


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set (in the main thread alone); a second SIGINT raises KeyboardInterrupt."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
