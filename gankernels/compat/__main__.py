"""Run a script unchanged on these operators: ``python -m gankernels.compat stylegan3|stylegan2-op SCRIPT ARGUMENTS``"""

import pathlib
import runpy
import sys

from gankernels import compat


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    _, name, script, *_ = sys.argv
    try:
        compat.install(name)
    except ValueError as error:
        sys.exit(str(error))
    sys.argv = sys.argv[2:]
    sys.path[0] = str(pathlib.Path(script).resolve().parent)  # as if Python had been given the script
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
