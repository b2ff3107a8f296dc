"""`python -m gpu.evidence`, from tests/: measures the listed calls of operators that changed, for docs/gpu-evidence.md.

With `--anew` of all operators. With `--every` it writes nothing and compiles every CUDA instantiation for every target
instead: no stack, no spill.
"""

import sys

from . import report

if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--anew"], ["--every"]):
        sys.exit(f"{report.COMMAND} [--anew | --every]: got {sys.argv[1:]}")
    if sys.argv[1:] == ["--every"]:
        failures = report.every()
    else:
        failures = report.write(anew=bool(sys.argv[1:]))
        print(f"wrote {report.DOCUMENT}")
    if failures:
        sys.exit("\n".join(["limits broken:", *failures]))
