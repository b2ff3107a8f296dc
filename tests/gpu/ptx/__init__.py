"""An emulator of NVIDIA's PTX in numpy: every register is an array with one element a thread."""

from .faults import Fault as Fault
from .launch import launch as launch
from .memory import Arena as Arena
from .parser import parse as parse
