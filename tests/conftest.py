import pytest
import torch


@pytest.fixture(autouse=True)
def poison_uninitialised_memory():
    """Deterministic mode also fills fresh tensors with NaN, so an element never written shows."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
