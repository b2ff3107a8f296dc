"""Folders of the checkout that are no package but travel in the wheel: csrc, tests, benchmarks (setup.py: Modules)."""

from pathlib import Path


def shipped(name: str, holds: str) -> Path:
    """Where a folder lies: in an installed package with an underscore before its name, else in the checkout.

    Raises: FileNotFoundError where neither holds the file `holds`.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / f"_{name}", package.parent / name):
        if (folder / holds).is_file():
            return folder
    raise FileNotFoundError(
        f"{holds} of {name} is neither in {package / f'_{name}'} nor in {package.parent / name}; reinstall gankernels"
    )
