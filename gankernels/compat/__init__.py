"""Existing StyleGAN code on these operators: `install` puts them where it imports its own from.

``gankernels.compat.install("stylegan3")`` serves the modules of ``torch_utils.ops`` (bias_act, upfirdn2d,
filtered_lrelu, conv2d_resample, conv2d_gradfix, grid_sample_gradfix, fma), ``install("stylegan2-op")`` the package
``op`` of many StyleGAN2 ports (FusedLeakyReLU, fused_leaky_relu, upfirdn2d, conv2d_gradfix), with the call signatures
that such code uses. Nothing is compiled when it runs, and any machine will do. Everything else stays the user's, other
modules of ``torch_utils``, ``torch_utils.ops`` and ``op`` included.

Call it before the code in question is imported, or leave a repository as it is and run its script by
``python -m gankernels.compat stylegan3 train.py ARGUMENTS``; a script that spawns processes needs the call at its top.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec

__all__ = ["install", "uninstall"]

_FOLDERS = {"stylegan3": ("stylegan3", "torch_utils.ops"), "stylegan2-op": ("stylegan2_op", "op")}
"""What can be installed: our folder, and the package that the published code imports."""


class _Ours(MetaPathFinder):
    """Finds our files under the user's names, so that pickles of what they define name the user's modules."""

    def __init__(self, package: str, folder: str) -> None:
        self.package = package
        self.home = pathlib.Path(__file__).parent / folder
        self.files = {f"{package}.{file.stem}": file for file in self.home.glob("[!_]*.py")}
        if (self.home / "__init__.py").read_text().count("\nfrom "):  # it offers names itself: the package is ours too
            self.files[package] = self.home / "__init__.py"

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target=None) -> ModuleSpec | None:
        file = self.files.get(fullname)
        if file is None:
            return None
        if fullname != self.package:
            return importlib.util.spec_from_file_location(fullname, file)
        theirs = importlib.machinery.PathFinder.find_spec(fullname, path)
        folders = list(theirs.submodule_search_locations or ()) if theirs is not None else []
        return importlib.util.spec_from_file_location(fullname, file, submodule_search_locations=folders)

    def holds(self, module: object) -> bool:
        spec = getattr(module, "__spec__", None)
        return spec is not None and spec.origin in map(str, self.files.values())


class _Parents(MetaPathFinder):
    """Asked last: empty packages for the parents of `package` where the user has none."""

    def __init__(self, package: str) -> None:
        parts = package.split(".")
        self.names = {".".join(parts[: i + 1]) for i in range(len(parts))}

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target=None) -> ModuleSpec | None:
        return ModuleSpec(fullname, None, is_package=True) if fullname in self.names else None


_installed: dict[tuple[str, str], tuple[_Ours, _Parents]] = {}


def install(name: str, package: str | None = None) -> None:
    """Have the modules `name` imported from gankernels, from now on and in this process; twice is once.

    Args:
        name: "stylegan3" or "stylegan2-op".
        package: where the code imports them from, if not from ``torch_utils.ops`` or ``op``: its full name, such as
            "models.stylegan2.op".

    Raises: ValueError for an unknown name; RuntimeError where such a module is imported already, for who imported it
        would keep it.
    """
    folder, default = _known(name)
    package = default if package is None else package
    if (name, package) in _installed:
        return
    ours = _Ours(package, folder)
    early = sorted(m for m in ours.files if sys.modules.get(m) is not None)
    if early:
        raise RuntimeError(
            f"compat.install({name!r}): {', '.join(early)} is imported already, and whoever did keeps it; call install "
            "at the top of the script, before the code that imports it"
        )
    _installed[name, package] = finders = (ours, _Parents(package))
    sys.meta_path.insert(0, finders[0])
    sys.meta_path.append(finders[1])
    importlib.invalidate_caches()


def uninstall(name: str, package: str | None = None) -> None:
    """Undo `install`: the next import finds the user's own modules; who imported ours keeps them.

    Raises: ValueError for an unknown name, RuntimeError where it is not installed.
    """
    _, default = _known(name)
    package = default if package is None else package
    if (name, package) not in _installed:
        raise RuntimeError(f"compat.uninstall({name!r}): it is not installed for package {package!r}")
    ours, parents = _installed.pop((name, package))
    sys.meta_path.remove(ours)
    sys.meta_path.remove(parents)
    for module in ours.files:
        if ours.holds(sys.modules.get(module)):
            _forget(module)
    for module in sorted(parents.names, key=len, reverse=True):
        spec = getattr(sys.modules.get(module), "__spec__", None)
        if spec is not None and spec.origin is None and not spec.submodule_search_locations:
            _forget(module)


def _known(name: str) -> tuple[str, str]:
    if name not in _FOLDERS:
        raise ValueError(f"compat: name is {name!r}, expected one of {', '.join(_FOLDERS)}")
    return _FOLDERS[name]


def _forget(module: str) -> None:
    gone = sys.modules.pop(module, None)
    parent, _, child = module.rpartition(".")
    if gone is not None and getattr(sys.modules.get(parent), child, None) is gone:
        delattr(sys.modules[parent], child)
