"""What a kernel can do wrong. Each class is one kind of fault; the message names the instruction."""


class Fault(Exception):
    """Base of everything that the emulator reports."""


class UnknownInstruction(Fault):
    """The emulator has no meaning for this instruction or modifier."""


class OutOfBounds(Fault):
    """An address outside every tensor of the launch, or outside shared, local or parameter space."""


class Misaligned(Fault):
    """An address that is no multiple of the access's bytes."""


class Uninitialised(Fault):
    """A read of shared memory that nobody wrote."""


class BarrierFault(Fault):
    """Threads that can never meet: a deadlock, different barriers, or threads that left."""


class InactiveLane(Fault):
    """A warp-wide instruction that names, or reads from, a lane that does not take part."""


class SharedRace(Fault):
    """Two threads use a shared location, one of them writing, with no barrier between."""


class GlobalRace(Fault):
    """Two threads of one block use a global location, one of them writing, with no barrier between."""


class BlockRace(Fault):
    """Two blocks use a global location, one of them writing, with no fence and atomic between."""


class AsyncRace(Fault):
    """A cp.async destination used before the wait that completes it."""


class BadLaunch(Fault):
    """A grid, block or shared-memory size that no GPU accepts."""


class Endless(Fault):
    """The kernel did not end within the step limit."""
