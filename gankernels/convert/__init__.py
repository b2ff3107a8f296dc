"""Networks of others into our files, and ours out into formats of others; see `convert` and `export`."""

from gankernels.convert.convert import convert
from gankernels.convert.export import export

__all__ = ["convert", "export"]
