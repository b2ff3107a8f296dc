"""`python docs/operators.py` writes docs/operators/*.md: a page for each operator, of its docstring and equivalents.py.

A test holds the pages equal to what this would write, and runs their snippets.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from equivalents import EQUIVALENTS

from gankernels import _backend, ops

FOLDER = Path(__file__).parent / "operators"
PARTS = {"filter2d": "upfirdn2d", "upsample2d": "upfirdn2d", "downsample2d": "upfirdn2d"}
"""What is an `upfirdn2d` of certain arguments."""

SECTIONS = ("Args:", "Returns:", "Raises:")


def signature(name: str) -> str:
    parameters = inspect.signature(getattr(ops, name)).parameters.values()
    text = ", ".join(re.sub(r": '[^']*'( =)?", lambda m: "=" if m[1] else "", str(p)) for p in parameters)
    keyword = next((p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY), None)
    if keyword is not None:
        text = re.sub(rf"\b{keyword}\b", f"*, {keyword}", text, count=1)
    return f"{name}({text.replace('= ', '=')})"


def backends(name: str) -> str:
    """The backends that an operator has, in words."""
    operator = PARTS.get(name, name)
    if operator not in _backend.operators():
        return "PyTorch, on any device."
    kernels = ", ".join(f"`{b}`" for b in _backend.NAMES if b in _backend.operators()[operator])
    text = (
        f"{kernels}; a compound of PyTorch's or other operators' kernels."
        if operator in _backend.compounds
        else kernels
    )
    text = text if text.endswith(".") else text + "."
    return text if operator == name else f"Those of [`{operator}`]({operator}.md): {text}"


def unfolded(lines: list[str]) -> list[str]:
    """Paragraphs, each a line, of text in which a deeper indentation continues a line."""
    out: list[str] = []
    for line in lines:
        if not line.strip():
            out.append("")
        elif out and out[-1]:
            out[-1] += " " + line.strip()
        else:
            out.append(line.strip())
    return [line for line in out if line]


def described(doc: str) -> list[str]:
    """A docstring as Markdown."""
    out, section, block = [], "", []

    def flush() -> None:
        if section == "Args:":
            for item in re.split(r"\n(?=\S)", inspect.cleandoc("\n" + "\n".join(block))):
                names, _, text = " ".join(item.split()).partition(": ")
                out.append(f"- `{names}`: {text}" if text else " ".join(item.split()))
            out.append("")
        else:
            out.extend(line for text in unfolded(block) for line in (text, ""))

    for line in doc.splitlines():
        head = next((s for s in SECTIONS if line.startswith(s)), None)
        if head is not None or (section and line and not line.startswith(" ")):
            flush()
            section, block = head or "", [line.removeprefix(head or "")]
            if head is not None:
                out += [f"## {'Arguments' if head == 'Args:' else head[:-1]}", ""]
        else:
            block.append(line)
    flush()
    return out


def page(name: str) -> str:
    if name not in EQUIVALENTS:
        raise ValueError(f"docs/equivalents.py: no entry for {name}; write what it is in plain PyTorch")
    doc = inspect.getdoc(getattr(ops, name))
    lines = [f"# {name}", "", "```python", f"gankernels.ops.{signature(name)}", "```", "", *described(doc)]
    lines += ["## Backends", "", backends(name), "", "## In plain PyTorch", "", "```python"]
    lines += [EQUIVALENTS[name].strip(), "```"]
    return "\n".join(lines) + "\n"


def index() -> str:
    lines = [
        "# Operators", "", "Written by `python docs/operators.py` from the docstrings.", "",
        "| operator | what it computes |", "|---|---|",
    ]  # fmt: skip
    for name in ops.__all__:
        first = unfolded(inspect.getdoc(getattr(ops, name)).split("\n\n")[0].splitlines())[0].replace("|", r"\|")
        lines.append(f"| [`{name}`]({name}.md) | {first} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Each file of docs/operators and its text."""
    return {"README.md": index(), **{f"{name}.md": page(name) for name in ops.__all__}}


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)
    print(f"wrote {len(wanted)} pages to {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
