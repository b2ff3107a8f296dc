"""Warp-wide instructions and special registers."""

import numpy as np

from ..faults import InactiveLane, UnknownInstruction
from .registry import op


def _whole(machine, array):
    return np.broadcast_to(array, (machine.lanes,))


def require_lanes(machine, members, text):
    """Checks membership masks (one an active lane): each names its own lane, and only lanes that are here."""
    index = machine.index
    lane = (index & 31).astype(np.uint32)
    if (members >> lane & np.uint32(1) == 0).any():
        raise InactiveLane(f"a lane is not in its own mask: `{text}`")
    here = ballots(machine, machine.mask)[index >> 5]
    if (members & ~here).any():
        raise InactiveLane(f"the mask names {int(np.bitwise_count(members & ~here).max())} inactive lanes: `{text}`")


def ballots(machine, flags):
    """Per warp, the mask of lanes whose flag is set."""
    weights = np.uint64(1) << np.arange(32, dtype=np.uint64)
    return (flags.reshape(-1, 32) * weights).sum(1).astype(np.uint32)


@op("shfl", mods="sync up down bfly idx")
def shfl(machine, ins):
    names = ins.operands[0].split("|")
    target = machine.target(names[0], "b32")
    flag = machine.target(names[1], "pred") if len(names) > 1 else None
    value, offset, control, members = (_whole(machine, machine.source(o, "u32")) for o in ins.operands[1:5])
    mode = ins.mods[1]

    def step():
        index = machine.index
        lane, b, c = index & 31, offset[index].astype(np.int64), control[index].astype(np.int64)
        require_lanes(machine, members[index], ins.text)
        segment = c >> 8 & 31
        highest, lowest = (lane & segment) | (c & 31 & ~segment), lane & segment
        if mode == "up":
            source = lane - (b & 31)
            valid = source >= highest
        else:
            source = {"down": lane + (b & 31), "bfly": lane ^ (b & 31), "idx": lowest | (b & 31 & ~segment)}[mode]
            valid = source <= highest
        source = index - lane + np.where(valid, source, lane)
        if not machine.mask[source].all():
            raise InactiveLane(f"the shuffle reads an inactive lane: `{ins.text}`")
        moved = value[source]
        if target is not None:
            target[index] = moved
        if flag is not None:
            flag[index] = valid

    return step


def _votes(machine, operand):
    negated, source = operand.startswith("!"), machine.source(operand.lstrip("!"), "pred")
    return lambda: _whole(machine, source) ^ negated


@op("vote", mods="sync all any uni ballot")
def vote(machine, ins):
    if "sync" not in ins.mods:
        raise UnknownInstruction(f"no meaning for `{ins.text}`")
    kind = next(m for m in ins.mods if m in ("all", "any", "uni", "ballot"))
    target = machine.target(ins.operands[0], "b32" if kind == "ballot" else "pred")
    flags, members = _votes(machine, ins.operands[1]), _whole(machine, machine.source(ins.operands[2], "u32"))

    def step():
        index = machine.index
        require_lanes(machine, members[index], ins.text)
        ayes = ballots(machine, flags() & machine.mask)[index >> 5] & members[index]
        every = ayes == members[index]
        results = {"ballot": ayes, "all": every, "any": ayes != 0, "uni": every | (ayes == 0)}
        target[index] = results[kind]

    return step


_REDUCE = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@op("redux", mods="sync add min max and or xor")
def redux(machine, ins):
    t = ins.type
    if t == "f32":
        raise UnknownInstruction(f"no meaning for `{ins.text}`")
    function = _REDUCE[next(m for m in ins.mods if m in _REDUCE)]
    target, value = machine.target(ins.operands[0], t), _whole(machine, machine.source(ins.operands[1], t))
    members = _whole(machine, machine.source(ins.operands[2], "u32"))

    def step():
        index = machine.index
        require_lanes(machine, members[index], ins.text)
        group = (index >> 5 << 32) | members[index].astype(np.int64)
        _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
        total = value[index[first]].copy()
        rest = np.ones(len(index), bool)
        rest[first] = False
        function.at(total, inverse[rest], value[index[rest]])
        target[index] = total[inverse]

    return step


@op("match", mods="sync any all")
def match(machine, ins):
    names = ins.operands[0].split("|")
    t = f"u{ins.type[1:]}"
    target, value = machine.target(names[0], "b32"), _whole(machine, machine.source(ins.operands[1], t))
    flag = machine.target(names[1], "pred") if len(names) > 1 else None
    members = _whole(machine, machine.source(ins.operands[2], "u32"))

    def step():
        index = machine.index
        require_lanes(machine, members[index], ins.text)
        rows = value.reshape(-1, 32)[index >> 5]
        same = (rows == value[index][:, None]) & (
            members[index][:, None] >> np.arange(32, dtype=np.uint32) & np.uint32(1) != 0
        )
        mask = (same * (np.uint64(1) << np.arange(32, dtype=np.uint64))).sum(1).astype(np.uint32)
        if "all" in ins.mods:
            every = mask == members[index]
            mask = np.where(every, mask, np.uint32(0))
            if flag is not None:
                flag[index] = every
        target[index] = mask

    return step


@op("activemask")
def activemask(machine, ins):
    target = machine.target(ins.operands[0], "b32")

    def step():
        target[machine.index] = ballots(machine, machine.mask)[machine.index >> 5]

    return step


@op("elect", mods="sync")
def elect(machine, ins):
    names = ins.operands[0].split("|")
    target, flag = machine.target(names[0], "b32"), machine.target(names[1], "pred")
    members = _whole(machine, machine.source(ins.operands[1], "u32"))

    def step():
        index = machine.index
        require_lanes(machine, members[index], ins.text)
        m = members[index]
        leader = np.bitwise_count((m & -m.view(np.int32).astype(np.uint32)) - np.uint32(1)).astype(np.uint32)
        if target is not None:
            target[index] = leader
        flag[index] = leader == (index & 31)

    return step


def barrier_reduction(machine, ins, rows):
    """bar.red.{popc,and,or} over the blocks `rows`."""
    kind = next(m for m in ins.mods if m in ("popc", "and", "or"))
    flags = _votes(machine, ins.operands[-1])().reshape(-1, machine.padded) & machine.real.reshape(-1, machine.padded)
    votes = flags.sum(1)
    result = {"popc": votes.astype(np.uint32), "and": votes == machine.threads, "or": votes > 0}[kind]
    target = machine.target(ins.operands[0], "u32" if kind == "popc" else "pred").reshape(-1, machine.padded)
    target[rows] = result[rows][:, None]


def special_register(machine, name):
    """The value of a special register, as uint32 or uint64, one a lane."""
    base, _, axis = name.partition(".")
    grid, block = machine.state.grid, machine.state.block
    thread = np.tile(np.arange(machine.padded), len(machine.blocks))
    number = np.repeat(machine.blocks, machine.padded)
    lane = machine.lane & 31
    places = {"x": 0, "y": 1, "z": 2}
    if base in ("%tid", "%ctaid") and axis in places:
        shape, value = (block, thread) if base == "%tid" else (grid, number)
        return (value // int(np.prod(shape[: places[axis]])) % shape[places[axis]]).astype(np.uint32)
    if base in ("%ntid", "%nctaid") and axis in places:
        return np.array([(block if base == "%ntid" else grid)[places[axis]]], np.uint32)
    if base in ("%cluster_ctaid", "%clusterid", "%cluster_nctaid", "%nclusterid") and axis in places:
        if base == "%clusterid":
            return special_register(machine, f"%ctaid.{axis}")
        return {"%cluster_ctaid": np.zeros, "%cluster_nctaid": np.ones}.get(
            base, lambda *a: np.array([grid[places[axis]]])
        )(1, np.uint32)
    values = {
        "%laneid": lambda: lane,
        "%warpid": lambda: thread >> 5,
        "%nwarpid": lambda: np.array([machine.padded // 32]),
        "%lanemask_eq": lambda: 1 << lane,
        "%lanemask_lt": lambda: (1 << lane) - 1,
        "%lanemask_le": lambda: (2 << lane) - 1,
        "%lanemask_ge": lambda: (1 << 32) - (1 << lane),
        "%lanemask_gt": lambda: (1 << 32) - (2 << lane),
        "%cluster_ctarank": lambda: np.array([0]),
        "%cluster_nctarank": lambda: np.array([1]),
        "%dynamic_smem_size": lambda: np.array([machine.state.dynamic_bytes]),
        "%total_smem_size": lambda: np.array([machine.state.shared_bytes]),
    }
    if name not in values:
        raise UnknownInstruction(f"no meaning for the special register {name}")
    return values[name]().astype(np.uint32)
