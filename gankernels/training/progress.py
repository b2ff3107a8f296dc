"""What a run shows while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol, TextIO

from gankernels.errors import need
from gankernels.training.processes import environment


@dataclass(frozen=True)
class Status:
    """Where a run stands: images shown and to be shown, mean losses of the last interval, seconds left or None."""

    step: int
    images: int
    total: int
    d_loss: float
    g_loss: float
    rate: float
    left: float | None

    def clock(self) -> str:
        if self.left is None:
            return "-:--"
        seconds = round(self.left)
        hours, minutes = divmod(seconds // 60, 60)
        return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"

    def text(self) -> str:
        return f"D {self.d_loss:.3f}  G {self.g_loss:.3f}  {self.rate:.0f} images/s  {self.clock()} left"


class Progress(Protocol):
    def update(self, status: Status) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


class PlainProgress:
    """A line every `interval` seconds."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._interval, self._last = interval, -float("inf")

    def update(self, status: Status) -> None:
        now = time.monotonic()
        if now - self._last >= self._interval:
            self._last = now
            self.say(f"step {status.step}  {status.images}/{status.total} images  {status.text()}")

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        pass


class Silent:
    """Of the processes that are not the first."""

    def update(self, status: Status) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class RichProgress:
    """A bar with losses, images a second and the time left."""

    def __init__(self) -> None:
        progress = need("rich.progress", "train")
        self._bar = progress.Progress(
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[text]}"),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("training", total=None, text="")
        self._bar.start()

    def update(self, status: Status) -> None:
        self._bar.update(self._task, completed=status.images, total=status.total, text=status.text())

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def make_progress() -> Progress:
    """The bar where stdout is a terminal, plain lines where it is not; nothing in a process that is not the first."""
    if environment()[0] > 0:
        return Silent()
    return RichProgress() if sys.stdout.isatty() else PlainProgress()


class Speed:
    """Images a second over the last half minute or so."""

    def __init__(self, images: int) -> None:
        self._marks = deque([(time.monotonic(), images)])

    def at(self, images: int) -> float:
        now = time.monotonic()
        self._marks.append((now, images))
        while len(self._marks) > 2 and now - self._marks[1][0] > 30:
            self._marks.popleft()
        then, before = self._marks[0]
        return (images - before) / max(now - then, 1e-9)
