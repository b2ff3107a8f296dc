"""CPU tensors as the global memory of a launch."""

import ctypes

import numpy as np

from . import ptx


def bytes_at(address, nbytes):
    """The memory at an address as a numpy array that shares it."""
    return np.frombuffer((ctypes.c_ubyte * nbytes).from_address(address), np.uint8) if nbytes else np.empty(0, np.uint8)


class TensorMemory:
    """Places tensors in an arena, a storage once; only the elements of the tensors themselves may be touched.

    The tensors must outlive it.
    """

    def __init__(self):
        self.arena = ptx.Arena()
        self.storages = {}  # data pointer of a storage -> (item, address, bytes)

    def address(self, tensor, name):
        """The device address of a tensor's first element; a storage starts as aligned as a GPU allocation."""
        if tensor.device.type != "cpu":
            raise ValueError(f"{name}: a tensor on {tensor.device}, expected cpu")
        storage, item = tensor.untyped_storage(), tensor.element_size()
        strides = [stride * item for stride in tensor.stride()]
        start = tensor.storage_offset() * item
        return self.address_of(storage.data_ptr(), storage.nbytes(), start, item, tensor.shape, strides, name)

    def address_of(self, storage, nbytes, start, item, shape, strides, name):
        """The same of a tensor given by its storage's address and size; `start` and `strides` in bytes."""
        key = storage or object()
        if key not in self.storages:
            data = bytes_at(storage, nbytes)
            self.storages[key] = (len(self.arena.items), self.arena.add(name, data, own=False), data)
        place, address, _ = self.storages[key]
        self.arena.own(place, start, shape, strides, item)
        return address + start

    def write_back(self):
        """Copies what the kernel wrote to the tensors."""
        for place, _, data in self.storages.values():
            if len(data):
                data[:] = self.arena.result(place)
