"""`python -m gpu.evidence`, from tests/: measures every listed call and writes docs/gpu-evidence.md.

With `--every` it writes nothing and compiles every CUDA instantiation for every target instead: no stack, no spill.
"""

import sys

from . import report

if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--every"]):
        sys.exit(f"{report.COMMAND} [--every]: got {sys.argv[1:]}")
    if sys.argv[1:]:
        failures = report.every()
    else:
        failures = report.write()
        print(f"wrote {report.DOCUMENT}")
    if failures:
        sys.exit("\n".join(["limits broken:", *failures]))
