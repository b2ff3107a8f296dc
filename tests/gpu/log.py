"""What ran on an emulated device."""

from dataclasses import dataclass, field


@dataclass
class Record:
    """One launch: kernel, compiled form, grid, arguments, stream; `run` is the emulator's, None if only compiled."""

    name: str
    compiled: object
    grid: tuple
    arguments: dict
    run: object = None
    stream: object = None

    @property
    def counters(self):
        return self.run.counters


@dataclass
class Log:
    """Launches made inside a device, in order; autotuning trials; configurations that exceed the GPU."""

    launches: list = field(default_factory=list)
    trials: list = field(default_factory=list)
    unfit: list = field(default_factory=list)
    tuning: bool = False

    def add(self, record):
        (self.trials if self.tuning else self.launches).append(record)
