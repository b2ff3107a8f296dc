"""Which kernels run: the caller's choice, or the first usable one of a fixed order.

An operator registers one callable a backend. ``cpu`` and ``cuda`` are compiled (``gankernels_native::*``, C++
autograd), ``triton`` is ``gankernels::*`` with its autograd in Python, ``reference`` is plain differentiable PyTorch.
The callable that ran forward put its own backend's nodes in the graph, so backward stays there whatever is forced by
then.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterator

import torch

from gankernels import _launch, _nvrtc

NAMES = ("reference", "cpu", "cuda", "triton")

try:
    from gankernels import _C
except ImportError as error:
    _C = None
    native_error: str | None = f"gankernels._C is not built ({error}); reinstall with a C++ compiler present"
else:
    native_error = None
    if not _C.build_info()["cuda"]:
        _C.set_runtime_runner(_launch.runner.address)

cuda_built = _C is not None and _C.build_info()["cuda"]
"""Whether nvcc compiled the CUDA kernels; else CuPy does when they first run, and Triton's launches cost less."""

ORDER = {
    "cpu": ("cpu", "reference"),
    "cuda": ("cuda", "triton", "reference") if cuda_built else ("triton", "cuda", "reference"),
}

triton_error: str | None = (
    None if importlib.util.find_spec("triton") else "triton is not installed (pip install triton)"
)

emulated: set[str] = set()
"""GPU backends that accept CPU tensors: test support that executes their compiled code without a GPU fills this."""

_forced: str | None = None  # the last one forced: a plain global, for torch.compile guards on no thread-local
_blocks: list[tuple[object, str]] = []  # those that are entered and not left, in any thread
_entering = threading.Lock()
_thread = threading.local()  # .forced: the names that this thread forces, the innermost last
_operators: dict[str, dict[str, Callable]] = {}
compounds: set[str] = set()
"""The operators that are made of others and have no kernels of their own."""
_on_torch: set[str] = set()
_plain: dict[str, Callable] = {}
_warned: set[str] = set()


def register(op: str, *, cuda_is_torch: bool = False, **kernels: Callable) -> None:
    """Declare the backends of operator `op`, one callable each; all take the same arguments.

    `cuda_is_torch`: its kernels on CUDA tensors are PyTorch's, under our derivatives: no CUDA build of ours is needed.
    """
    unknown = set(kernels) - set(NAMES)
    if unknown or "reference" not in kernels:
        raise ValueError(f"register({op!r}): needs 'reference', takes only {NAMES}; got {sorted(kernels)}")
    _operators[op] = kernels
    if cuda_is_torch:
        _on_torch.add(op)


def cuda_is_torch(op: str) -> bool:
    """Whether the cuda backend of `op` runs PyTorch's own kernels."""
    return op in _on_torch


def register_compound(op: str, run: Callable, *parts: str, **own: Callable) -> None:
    """Declare operator `op`, whose `run` calls operators `parts`: it has the backends that all of these have.

    `own` are backends with a callable that does it another way.
    """
    compounds.add(op)
    common = set.intersection(*(set(_operators[part]) for part in parts)) - {"reference"}
    register(op, reference=run, **{name: functools.partial(run) for name in common} | own)


def operators() -> dict[str, tuple[str, ...]]:
    """Each operator and the backends it has kernels for."""
    return {op: tuple(kernels) for op, kernels in sorted(_operators.items())}


def register_plain(name: str, run: Callable) -> None:
    """Declare what the dispatcher's operator `name` is in plain PyTorch, where it is not the reference of that name."""
    _plain[name] = run


def plain() -> dict[str, Callable]:
    """The dispatcher's forward operators in plain PyTorch, each a callable of the same arguments."""
    return {op: kernels["reference"] for op, kernels in _operators.items() if op not in compounds} | _plain


def home(op: str) -> str:
    """The module in gankernels.ops that operator `op` lives in, by its last name."""
    return _operators[op]["reference"].__module__.rpartition(".")[2].removesuffix("_op")


def native(name: str) -> Callable:
    """The compiled operator ``gankernels_native::name``, looked up when called: the extension may not be built."""

    def call(*args):
        return getattr(torch.ops.gankernels_native, name)(*args)

    return call


def plain_call(name: str) -> Callable:
    """The compiled short way into operator `name`, to be tried where `plain_calls()`; it takes the arguments in order.

    It returns NotImplemented unless the tensors and the arguments are ordinary ones, for the CPU.
    """
    return _not_plain if _C is None else getattr(_C, f"plain_{name}")


def plain_calls() -> bool:
    """Whether the short ways may run: no other backend is forced, and torch.compile is not looking."""
    return _forced_here() in (None, "cpu") and not torch.compiler.is_compiling()


def _forced_here() -> str | None:
    """What this thread forces, else what another does."""
    if _forced is None or torch.compiler.is_compiling():
        return _forced
    return (getattr(_thread, "forced", None) or [_forced])[-1]


def _not_plain(*args):
    return NotImplemented


def why_not(name: str, device: torch.device | str, op: str | None = None) -> str | None:
    """The reason backend `name` cannot run (operator `op`) on tensors of `device`, or None if it can."""
    if name not in NAMES:
        raise ValueError(f"backend: unknown name {name!r}, expected one of {', '.join(NAMES)}")
    if op is not None and name not in _operators[op]:
        return f"{op} has no {name} kernel"
    if name == "reference" or name in emulated:
        return None
    kind = torch.device(device).type
    needs = "cpu" if name == "cpu" else "cuda"
    if name == "triton" and triton_error:
        return triton_error
    if name != "triton" and native_error:
        return native_error
    if name == "cuda" and op not in _on_torch and not cuda_built and _nvrtc.missing:
        return (
            "gankernels._C was built without CUDA: reinstall it where nvcc is (GANKERNELS_CUDA=1), or have the kernels "
            f"compiled when they first run ({_nvrtc.INSTALL}; now: {_nvrtc.missing})"
        )
    if kind != needs:
        return f"it runs on {needs} tensors, these are on {kind}"
    return None


def _in_functional_derivative() -> bool:
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    levels = torch._C._functorch.get_interpreter_stack() or ()
    kinds = torch._C._functorch.TransformType
    return any(level.key() in (kinds.Grad, kinds.Jvp) for level in levels)


def pick(op: str, x: torch.Tensor) -> Callable:
    """The callable that runs operator `op` on `x`: the forced backend's, else the first usable in ORDER."""
    run = _pick(op, x)
    if run is not _operators[op]["reference"] and not torch.compiler.is_compiling() and _in_functional_derivative():
        raise RuntimeError(
            f"{op}: torch.func.grad, vjp and jvp cannot differentiate compiled kernels, nor can forward mode "
            "(torch.autograd.forward_ad); use torch.autograd.grad, or gankernels.backend('reference')"
        )
    return run


def namespace(op: str, x: torch.Tensor) -> str | None:
    """The namespace of torch.ops that holds the kernels of `op` for `x`, None for the reference."""
    run, kernels = _pick(op, x), _operators[op]
    if run is kernels["reference"]:
        return None
    return "gankernels" if run is kernels.get("triton") else "gankernels_native"


def runs_on_cpu_kernels(op: str, x: torch.Tensor) -> bool:
    """Whether `op` on `x` is the compiled CPU kernel: what is made of operators may then call its helpers."""
    return x.device.type == "cpu" and _pick(op, x) is _operators[op].get("cpu")


def _pick(op: str, x: torch.Tensor) -> Callable:
    forced = _forced_here()
    if forced is not None:
        reason = why_not(forced, x.device.type, op)
        if reason:
            raise RuntimeError(f"{op}: backend {forced!r} is forced but cannot run: {reason}")
        return _operators[op][forced]
    refused = ""
    for name in ORDER.get(x.device.type, ("reference",)):
        reason = why_not(name, x.device.type, op)
        if reason is None:
            if name == "reference" and refused and not torch.compiler.is_compiling():
                _warn_reference(op, refused)
            return _operators[op][name]
        refused += f"; {name}: {reason}"
    raise RuntimeError(f"{op}: no usable backend for a tensor on {x.device}{refused}")


def preferred(device: torch.device | str) -> str:
    """The backend that operators on tensors of `device` take if they have a kernel for it: forced, or first usable."""
    forced = _forced_here()
    if forced is not None:
        return forced
    order = ORDER.get(torch.device(device).type, ("reference",))
    return next(name for name in order if why_not(name, device) is None)


def cpu_capability() -> str:
    """The instruction set that the compiled CPU kernels use, or "not built"."""
    return "not built" if _C is None else _C.cpu_capability()


def _warn_reference(op: str, refused: str) -> None:
    if refused not in _warned:
        _warned.add(refused)
        warnings.warn(f"{op} runs on the reference backend, plain PyTorch{refused}", stacklevel=4)


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Force one backend ("reference", "cpu", "cuda" or "triton") inside the block.

    For this thread, and for threads that force none themselves. Two threads may force two at once; code compiled by
    torch.compile then follows the block entered last. An operator that cannot use the backend raises RuntimeError with
    the reason; nothing falls back. A graph recorded inside keeps its backend when backward runs outside.

    Raises: ValueError for an unknown name.
    """
    global _forced
    if name not in NAMES:
        raise ValueError(f"backend: unknown name {name!r}, expected one of {', '.join(NAMES)}")
    if torch.compiler.is_compiling():
        previous, _forced = _forced, name
        try:
            yield
        finally:
            _forced = previous
        return
    block = object(), name
    mine = _thread.__dict__.setdefault("forced", [])
    with _entering:
        _blocks.append(block)
        _forced = name
    mine.append(name)
    try:
        yield
    finally:
        mine.pop()
        with _entering:
            _blocks.remove(block)
            _forced = _blocks[-1][1] if _blocks else None
