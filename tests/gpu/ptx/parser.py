"""PTX text to instructions. Types, registers and labels are resolved here; meaning is elsewhere."""

import re
from dataclasses import dataclass, field
from functools import lru_cache

from .values import size


@dataclass(frozen=True)
class Instruction:
    text: str
    opcode: str  # "ld", "mma", ...
    mods: tuple  # what follows the first dot, "::cta" dropped
    operands: tuple
    predicate: str | None = None
    negated: bool = False

    @property
    def type(self):
        return self.mods[-1]


@dataclass
class Kernel:
    name: str
    params: list  # (name, bytes, alignment)
    registers: dict = field(default_factory=dict)  # name -> PTX type
    instructions: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)  # name -> instruction index
    tables: dict = field(default_factory=dict)  # branch targets of brx.idx
    shared: dict = field(default_factory=dict)  # name -> offset
    shared_bytes: int = 0  # static
    dynamic: list = field(default_factory=list)  # (name, alignment) of extern shared arrays
    local: dict = field(default_factory=dict)  # name -> offset
    local_bytes: int = 0
    constants: dict = field(default_factory=dict)  # name -> bytes, module-level .global and .const
    max_threads: int = 1024


def _align(offset, alignment):
    return (offset + alignment - 1) // alignment * alignment


def _split(text, comma=","):
    """Splits at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c in "{[(":
            depth += 1
        elif c in "}])":
            depth -= 1
        elif c == comma and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    if tail := text[start:].strip():
        parts.append(tail)
    return parts


def _strip_comments(text):
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


_VARIABLE = re.compile(
    r"\.(shared|local|global|const)\s+(?:\.attribute\([^)]*\)\s+)?(?:\.align\s+(\d+)\s+)?"
    r"(?:\.v\d\s+)?\.(\w+)\s+([\w$.%]+)\s*((?:\[\d*\])*)\s*(?:=\s*(.*))?$",
    re.DOTALL,
)


_MODULE_VARIABLE = re.compile(
    r"(?:^|[;\n}])\s*(?:\.(?:extern|visible|weak)\s+)*(\.(?:shared|global|const)\s[^;]*)(?=;)"
)


def _declare(kernel, text):
    match = _VARIABLE.match(text)
    if not match:
        return False
    space, alignment, ptx_type, name, dims, init = match.groups()
    count = 1
    for dim in re.findall(r"\[(\d*)\]", dims):
        count *= int(dim or 0)
    nbytes, alignment = count * size(ptx_type), int(alignment or size(ptx_type))
    if space == "shared":
        if not nbytes:  # extern: after everything else
            kernel.dynamic.append((name, alignment))
            return True
        kernel.shared[name] = _align(kernel.shared_bytes, alignment)
        kernel.shared_bytes = kernel.shared[name] + nbytes
    elif space == "local":
        kernel.local[name] = _align(kernel.local_bytes, alignment)
        kernel.local_bytes = kernel.local[name] + nbytes
    else:
        data = bytearray(nbytes)
        if init:
            step = size(ptx_type)
            for i, value in enumerate(_split(init.strip().strip("{}"))):
                data[i * step : (i + 1) * step] = (int(value.rstrip("U"), 0) % (1 << (8 * step))).to_bytes(
                    step, "little"
                )
        kernel.constants[name] = bytes(data)
    return True


def _params(text):
    result = []
    for param in _split(text):
        words = param.split()
        alignment = int(words[words.index(".align") + 1]) if ".align" in words and ".ptr" not in words else None
        name, dims = re.match(r"([\w$]+)((?:\[\d+\])*)$", words[-1]).groups()
        ptx_type = words[words.index(".param") + 1 + (2 if alignment else 0)][1:]
        nbytes = size(ptx_type)
        for dim in re.findall(r"\[(\d+)\]", dims):
            nbytes *= int(dim)
        result.append((name, nbytes, alignment or size(ptx_type)))
    return result


def _statements(body):
    """Yields ("open"|"close"|"label"|"statement", text) of a function's body."""
    i, n = 0, len(body)
    label = re.compile(r"([\w$.%]+)\s*:(?!:)")
    while i < n:
        if body[i].isspace() or body[i] == ";":
            i += 1
        elif body[i] == "{":
            yield "open", ""
            i += 1
        elif body[i] == "}":
            yield "close", ""
            i += 1
        elif body.startswith((".loc ", ".loc\t", ".file"), i):
            i = body.find("\n", i)
            i = n if i < 0 else i
        elif match := label.match(body, i):
            yield "label", match[1]
            i = match.end()
        else:
            end = body.index(";", i)
            yield "statement", " ".join(body[i:end].split())
            i = end + 1


_INSTRUCTION = re.compile(r"(?:@(!?)([%\w$]+)\s+)?([\w.:]+)\s*(.*)$", re.DOTALL)


class _Scopes:
    """Register names by nested scope: an inner declaration of a used name gets a name of its own."""

    def __init__(self, kernel):
        self.kernel, self.stack, self.count = kernel, [{}], 0

    def declare(self, name, ptx_type):
        unique = name
        if name in self.kernel.registers:
            self.count += 1
            unique = f"{name}@{self.count}"
        self.stack[-1][name] = unique
        self.kernel.registers[unique] = ptx_type

    def rename(self, text):
        renamed = {k: v for scope in self.stack for k, v in scope.items() if k != v}
        if not renamed:
            return text
        return re.sub(r"[%\w$]+", lambda m: renamed.get(m[0], m[0]), text)


def _body(kernel, text):
    scopes = _Scopes(kernel)
    pending_label = None
    for kind, statement in _statements(text):
        if kind == "open":
            scopes.stack.append({})
        elif kind == "close":
            scopes.stack.pop()
        elif kind == "label":
            kernel.labels[statement] = len(kernel.instructions)
            pending_label = statement
        elif statement.startswith(".reg"):
            ptx_type, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)", statement).groups()
            for name in names.split(","):
                ranged = re.match(r"\s*(.*?)<(\d+)>\s*$", name)
                for one in [f"{ranged[1]}{i}" for i in range(int(ranged[2]))] if ranged else [name.strip()]:
                    scopes.declare(one, ptx_type)
        elif statement.startswith(".branchtargets"):
            kernel.tables[pending_label] = _split(statement[len(".branchtargets") :])
        elif statement.startswith(".pragma") or _declare(kernel, statement):
            continue
        elif statement.startswith("."):
            raise ValueError(f"unknown PTX directive: {statement}")
        else:
            negated, predicate, name, rest = _INSTRUCTION.match(scopes.rename(statement)).groups()
            opcode, *mods = name.replace("::cta", "").split(".")
            kernel.instructions.append(
                Instruction(statement, opcode, tuple(mods), tuple(_split(rest)), predicate, negated == "!")
            )


@lru_cache(maxsize=256)
def parse(ptx, entry):
    """The kernel `entry` of a PTX module."""
    text = _strip_comments(ptx)
    match = re.search(rf"\.entry\s+{re.escape(entry)}\s*\(", text)
    if not match:
        raise ValueError(f"no entry named {entry!r} in this PTX")
    close = text.index(")", match.end())
    kernel = Kernel(entry, _params(text[match.end() : close]))
    open_brace = text.index("{", close)
    if limit := re.search(r"\.(?:maxntid|reqntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", text[close:open_brace]):
        kernel.max_threads = int(limit[1]) * int(limit[2] or 1) * int(limit[3] or 1)
    depth, end = 0, open_brace
    for brace in re.finditer(r"[{}]", text[open_brace:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            end = open_brace + brace.start()
            break
    body = text[open_brace + 1 : end]
    used = set(re.findall(r"[\w$.]+", body))
    for declaration in _MODULE_VARIABLE.finditer(text[: match.start()] + text[end:]):
        variable = " ".join(declaration[1].split())
        if _VARIABLE.match(variable)[4] in used:
            _declare(kernel, variable)
    _body(kernel, body)
    for name, alignment in kernel.dynamic:
        kernel.shared_bytes = kernel.shared[name] = _align(kernel.shared_bytes, alignment)
    return kernel
