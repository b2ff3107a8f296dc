"""The pages of the operators are of these docstrings, and what they say in plain PyTorch is so."""

import doctest
import importlib
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import gankernels
from gankernels import ops

DOCS = Path(__file__).parents[1] / "docs"

if not (DOCS / "operators.py").is_file():
    pytest.skip("the pages are in a checkout only", allow_module_level=True)


@pytest.fixture(scope="module")
def generator():
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("operators")
    finally:
        sys.path.remove(str(DOCS))


def test_the_pages_are_of_these_docstrings(generator):
    found = {path.name: path.read_text() for path in (DOCS / "operators").glob("*.md")}
    wanted = generator.pages()
    assert sorted(found) == sorted(wanted), "run python docs/operators.py"
    stale = [name for name, text in wanted.items() if found[name] != text]
    assert not stale, f"stale: {stale}; run python docs/operators.py"


def same(a, b):
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ops.__all__)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_equivalent_in_plain_pytorch(name, backend):
    text = (DOCS / "operators" / f"{name}.md").read_text()
    names = {"torch": torch, "F": F, "ops": ops, "same": same}
    test = doctest.DocTestParser().get_doctest(
        text.rpartition("```python\n")[2].removesuffix("```\n"), names, name, None, 0
    )
    assert sum("ops." in example.source for example in test.examples) > 0
    torch.manual_seed(0)
    said = []
    with gankernels.backend(backend):
        result = doctest.DocTestRunner().run(test, out=said.append)
    assert result.attempted >= 2
    assert result.failed == 0, "".join(said)


def test_a_missing_or_stale_page_is_found(generator, monkeypatch):
    monkeypatch.delitem(generator.EQUIVALENTS, "bias_act")
    with pytest.raises(ValueError, match="no entry for bias_act; write what it is in plain PyTorch"):
        generator.pages()


def test_a_wrong_equivalent_is_found():
    test = doctest.DocTestParser().get_doctest(
        ">>> same(ops.maxout(torch.ones(1, 2), 2), torch.zeros(1, 1))\nTrue\n",
        {"torch": torch, "ops": ops, "same": same}, "wrong", None, 0,
    )  # fmt: skip
    assert doctest.DocTestRunner().run(test, out=lambda text: None).failed == 1
