import cells
import pytest
import torch


def pytest_addoption(parser):
    cells.add_option(parser)


def pytest_configure(config):
    """Here, not in pyproject.toml, which `gankernels selftest` has not where it runs these tests."""
    config.addinivalue_line("markers", "slow: minutes on two cores; left out of make test")
    config.addinivalue_line("filterwarnings", "error:.*an autograd kernel was not registered")
    no_rule = "error:.*There is a performance drop because we have not yet implemented the batching rule"
    config.addinivalue_line("filterwarnings", no_rule)
    if config.getoption(cells.OPTION):
        config.pluginmanager.register(cells.Cells(config.getoption(cells.OPTION)))


@pytest.fixture(autouse=True)
def poison_uninitialised_memory():
    """Deterministic mode also fills fresh tensors with NaN, so an element never written shows."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def ieee_float32(monkeypatch):
    """cuDNN convolves float32 in TF32 unless told: a reference of 10 bits would excuse any error of ours."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
