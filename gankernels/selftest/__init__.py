"""`gankernels selftest`: the operators' tests and benchmarks on this machine, and a report to attach to an issue."""

from gankernels.selftest.run import selftest

__all__ = ["selftest"]
