"""Executes a kernel: many blocks in step, lowest program counter first, so that branches reconverge."""

import numpy as np

from . import semantics
from .faults import BarrierFault, Endless, Fault, UnknownInstruction
from .memory import Local, Shared
from .shadow import Shadow
from .values import DTYPES, UNSIGNED, immediate, is_signed, size

STEPS = 20_000_000
CONTROL = {"bra", "brx", "ret", "exit", "bar", "barrier", "trap"}


class Machine:
    """The blocks of one chunk of the grid. Instruction closures are linked to its register arrays."""

    def __init__(self, state, blocks):
        self.state, self.kernel, self.counters = state, state.kernel, state.counters
        self.arena, self.sync, self.races, self.touched = state.arena, state.sync, state.races, state.touched
        self.blocks = blocks
        self.threads, self.padded = state.threads, state.padded
        self.lanes = len(blocks) * self.padded
        self.real = np.tile(np.arange(self.padded) < self.threads, len(blocks))
        self.lane = np.arange(self.lanes)
        self.block_of = np.repeat(np.arange(len(blocks)), self.padded)
        self.thread_of = np.repeat(blocks * self.padded, self.padded) + np.tile(np.arange(self.padded), len(blocks))
        self.registers = {}
        self.shared = Shared(len(blocks), state.shared_bytes)
        self.shared_races = (
            Shadow(self.shared.bytes.nbytes, state.shared_granule, self.sync, True) if state.check else None
        )
        self.local = Local(self.lanes, self.kernel.local_bytes)
        self.async_groups = semantics.AsyncGroups(self)
        self._special = {}
        self._blocks = {}
        self._set_mask(self.real.copy())

    def _set_mask(self, mask):
        self.mask = mask
        self.full = bool(mask.all())
        self._index = None

    @property
    def index(self):
        """Numbers of the active lanes."""
        if self._index is None:
            self._index = self.lane if self.full else np.flatnonzero(self.mask)
        return self._index

    def storage(self, name):
        array = self.registers.get(name)
        if array is None:
            ptx_type = self.kernel.registers[name]
            dtype = np.bool_ if ptx_type == "pred" else UNSIGNED[size(ptx_type)]
            array = self.registers[name] = np.zeros(self.lanes, dtype)
        return array

    def source(self, operand, ptx_type):
        """An array bound to an operand read as a type: one element a lane, or a single one for a constant."""
        if operand in self.kernel.registers:
            array = self.storage(operand)
            if ptx_type == "pred":
                return array
            width, dtype = size(ptx_type), np.dtype(DTYPES[ptx_type])
            if array.itemsize > width:
                array = array.view(UNSIGNED[width])[:: array.itemsize // width]
            elif array.itemsize < width:
                raise UnknownInstruction(f"operand {operand} is narrower than .{ptx_type}")
            return array.view(dtype) if dtype != array.dtype else array
        if operand[0] == "%":
            return self.special(operand).astype(DTYPES[ptx_type])
        if operand[0] in "-0123456789":
            return immediate(operand, ptx_type)
        return np.array([self.symbol(operand)], DTYPES[ptx_type])

    def symbol(self, name):
        if name in self.kernel.shared:
            return self.kernel.shared[name]
        if name in self.kernel.local:
            return self.kernel.local[name]
        if name in self.state.constants:
            return self.state.constants[name]
        if name in self.state.param_offsets:
            return self.state.param_offsets[name]
        raise UnknownInstruction(f"unknown symbol {name}")

    def target(self, operand, ptx_type):
        """The array that a result of a type is written to; None for the sink `_`."""
        if operand == "_":
            return None
        array = self.storage(operand)
        if ptx_type == "pred":
            return array
        dtype = np.dtype(DTYPES[ptx_type])
        if array.itemsize == dtype.itemsize:
            return array.view(dtype)
        if array.itemsize < dtype.itemsize:
            raise UnknownInstruction(f"result {operand} is narrower than .{ptx_type}")
        return array.view(f"i{array.itemsize}") if is_signed(ptx_type) else array

    def put(self, target, value):
        """Writes a whole-lane value (or one constant) where lanes are active."""
        if self.full:
            target[...] = value
        else:
            np.copyto(target, value, where=self.mask, casting="unsafe")

    def special(self, name):
        if name not in self._special:
            self._special[name] = semantics.special_register(self, name)
        return self._special[name]

    def _link(self, start):
        """The straight-line run at `start`: closures, the index of what ends it, and its opcode counts."""
        instructions, steps, p = self.kernel.instructions, [], start
        while (
            p < len(instructions)
            and instructions[p].opcode not in CONTROL
            and (p == start or p not in self.state.leaders)
        ):
            steps.append((self._step(instructions[p]), instructions[p]))
            p += 1
        names = [f"op:{i.opcode}.{i.mods[0]}" if i.mods else f"op:{i.opcode}" for _, i in steps]
        run = self._blocks[start] = (steps, p, names)
        return run

    def _step(self, instruction):
        build = semantics.BUILDERS.get(instruction.opcode)
        if build is None:
            raise UnknownInstruction(f"no meaning for `{instruction.text}`")
        try:
            step = build(self, instruction)
        except Fault:
            raise
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise UnknownInstruction(f"cannot link `{instruction.text}`: {error}") from error
        if instruction.predicate is None:
            return step
        predicate, negated = self.storage(instruction.predicate), instruction.negated

        def guarded():
            mask, full, index = self.mask, self.full, self._index
            self._set_mask(mask & (predicate ^ negated))
            if self.full or self.mask.any():
                step()
            self.mask, self.full, self._index = mask, full, index

        return guarded

    def run(self):
        """Runs the blocks to their end; a fault names the kernel."""
        try:
            self._run()
        except Fault as fault:
            raise type(fault)(f"{fault} [{self.kernel.name}]") from fault

    def _run(self):
        self.live = self.real.copy()
        self.blocked = np.zeros(self.lanes, bool)
        self.pc = np.zeros(self.lanes, np.int64)
        self.together = 0  # where all live lanes are, or None
        end, count = len(self.kernel.instructions), self.counters
        while self.live.any():
            p = self._select()
            steps, stop, names = self._blocks.get(p) or self._link(p)
            warps = int(self.mask.reshape(-1, 32).any(1).sum())
            for step, instruction in steps:
                try:
                    step()
                except (ValueError, IndexError, TypeError) as error:
                    raise RuntimeError(f"emulator bug in `{instruction.text}`: {error}") from error
            if self.state.count:
                executed = len(steps) + (stop < end and stop not in self.state.leaders)
                count["warp_instructions"] += warps * executed
                count["thread_instructions"] += len(self.index) * executed
                for name in names:
                    count[name] += warps
            self.state.steps += len(steps) + 1
            if self.state.steps > STEPS:
                raise Endless(f"did not end within {STEPS} instructions")
            if stop >= end:
                self._leave(self.mask)
            elif (instruction := self.kernel.instructions[stop]).opcode in CONTROL:
                getattr(self, f"_{instruction.opcode}")(instruction, stop)
            else:
                self._go(self.mask, stop)

    def _select(self):
        """The program counter to run next; its lanes become the active ones."""
        if self.together is not None:
            if self.mask is not self.live:
                self._set_mask(self.live)
            return self.together
        runnable = self.live & ~self.blocked
        if not runnable.any():
            raise BarrierFault("deadlock: threads wait at a barrier that others never reach")
        p = int(self.pc[runnable].min())
        mask = runnable & (self.pc == p)
        if (mask == self.live).all():
            self.together = p
            mask = self.live
        self._set_mask(mask)
        return p

    def _go(self, mask, p):
        if self.together is not None:
            self.together = p
        else:
            self.pc[mask] = p

    def _taken(self, instruction):
        if instruction.predicate is None:
            return self.mask
        return self.mask & (self.storage(instruction.predicate) ^ instruction.negated)

    def _split(self, taken, targets, otherwise):
        """Moves the `taken` lanes to `targets` (a place or one a lane) and the other active ones to `otherwise`."""
        if self.together is not None:
            self.pc[self.live] = otherwise
            self.together = None
        else:
            self.pc[self.mask] = otherwise
        self.pc[taken] = targets

    def _bra(self, instruction, p):
        target = self.kernel.labels[instruction.operands[0]]
        taken = self._taken(instruction)
        if taken is self.mask or (taken == self.mask).all():
            self._go(self.mask, target)
        elif not taken.any():
            self._go(self.mask, p + 1)
        else:
            stay = self.mask & ~taken
            both = taken.reshape(-1, 32).any(1) & stay.reshape(-1, 32).any(1)
            self.counters["divergent_branches"] += int(both.sum())
            self._split(taken, target, p + 1)

    def _brx(self, instruction, p):
        taken = self._taken(instruction)
        table = np.array([self.kernel.labels[name] for name in self.kernel.tables[instruction.operands[1]]])
        index = self.source(instruction.operands[0], "u32").astype(np.int64)
        if (index[taken] >= len(table)).any():
            raise BarrierFault(f"branch index past its table: `{instruction.text}`")
        self._split(taken, table[index[taken]], p + 1)

    def _leave(self, mask):
        self.live = self.live & ~mask

    def _ret(self, instruction, p):
        taken = self._taken(instruction)
        if taken is self.mask:
            self._leave(self.mask)
        elif taken.any():
            self._split(taken, p + 1, p + 1)
            self._leave(taken)
        else:
            self._go(self.mask, p + 1)

    _exit = _ret

    def _trap(self, instruction, p):
        if self._taken(instruction).any():
            raise Fault("trap (a failed assertion)")
        self._go(self.mask, p + 1)

    def _bar(self, instruction, p):
        if "warp" in instruction.mods:
            self._warp_barrier(instruction)
            return self._go(self.mask, p + 1)
        if ("sync" not in instruction.mods and "red" not in instruction.mods) or instruction.predicate:
            raise UnknownInstruction(f"no meaning for `{instruction.text}`")
        count = instruction.operands[1:] if "sync" in instruction.mods else ()
        if count and not (self.source(count[0], "u32") == self.threads).all():
            raise UnknownInstruction(f"a barrier for part of the block: `{instruction.text}`")
        self._split(self.mask, p + 1, p + 1)
        self.blocked[self.mask] = True
        blocked, live = self.blocked.reshape(-1, self.padded), self.live.reshape(-1, self.padded)
        arrived = (blocked | ~live).all(1) & blocked.any(1)
        if not arrived.any():
            return None
        rows = np.flatnonzero(arrived)
        real, pcs = self.real.reshape(-1, self.padded)[rows], self.pc.reshape(-1, self.padded)[rows]
        if (real & ~live[rows]).any():
            raise BarrierFault(f"{int((real & ~live[rows]).sum())} threads left before a barrier: `{instruction.text}`")
        if (real & (pcs != p + 1)).any():
            raise BarrierFault(f"threads of a block wait at different barriers: `{instruction.text}`")
        if "red" in instruction.mods:
            semantics.barrier_reduction(self, instruction, rows)
        blocked[rows] = False
        self.sync.barrier(self.blocks[rows])
        self.counters["barriers"] += len(rows)
        return None

    _barrier = _bar

    def _warp_barrier(self, instruction):
        members = np.broadcast_to(self.source(instruction.operands[0], "u32"), (self.lanes,))[self.index]
        semantics.require_lanes(self, members, instruction.text)
        self.sync.warp[np.unique(self.thread_of[self.index] >> 5)] += 1
