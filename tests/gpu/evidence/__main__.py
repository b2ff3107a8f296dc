"""`python -m gpu.evidence`, from tests/: measures the listed calls of operators that changed, for docs/gpu-evidence.md.

With `--anew` of all operators. With `--every` it writes nothing and compiles every CUDA instantiation for every target
instead: no stack, no spill. Operators that are named are the only ones looked at, changed or not.
"""

import sys

from . import OPERATORS, report

if __name__ == "__main__":
    options = [a for a in sys.argv[1:] if a.startswith("-")]
    ops = [a for a in sys.argv[1:] if a not in options]
    if options not in ([], ["--anew"], ["--every"]) or not set(ops) <= set(OPERATORS):
        sys.exit(f"{report.COMMAND} [--anew | --every] [operator ...]: got {sys.argv[1:]}")
    if options == ["--every"]:
        failures = report.every(ops or OPERATORS)
    else:
        failures = report.write(ops, anew=bool(options))
        print(f"wrote {report.DOCUMENT}")
    if failures:
        sys.exit("\n".join(["limits broken:", *failures]))
