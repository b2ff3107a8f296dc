"""The table of builders, and the shape that most of them share."""

import numpy as np

from ..faults import UnknownInstruction
from ..values import DTYPES

BUILDERS = {}


def op(*names, mods=""):
    """Registers a builder; a modifier that is neither a type nor listed in `mods` is an unknown instruction."""
    allowed = set(mods.split()) | set(DTYPES)

    def register(build):
        def checked(machine, instruction):
            for mod in instruction.mods:
                if mod not in allowed:
                    raise UnknownInstruction(f"no meaning for .{mod} in `{instruction.text}`")
            return build(machine, instruction)

        for name in names:
            if name in BUILDERS:
                raise ValueError(f"{name} has a builder already")
            BUILDERS[name] = checked
        return build

    return register


def elementwise(machine, operand, result_type, function, sources):
    """A step that writes function(*sources) to `operand`."""
    target = machine.target(operand, result_type)
    if target is None:
        return lambda: None
    put = machine.put
    if isinstance(function, np.ufunc) and all(s.dtype == target.dtype for s in sources):

        def direct():
            if machine.full:
                function(*sources, out=target)
            else:
                put(target, function(*sources))

        return direct
    return lambda: put(target, function(*sources))


def sources(machine, instruction, ptx_type, first=1, count=None):
    """The operands from `first` on, read as one type."""
    operands = instruction.operands[first:] if count is None else instruction.operands[first : first + count]
    return [machine.source(operand, ptx_type) for operand in operands]


def vector(operand):
    """The members of `{a, b}`, or the operand alone."""
    return [part.strip() for part in operand.strip("{} ").split(",")] if operand.startswith("{") else [operand]
