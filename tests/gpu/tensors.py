"""CPU tensors as the global memory of a launch."""

import torch

from . import ptx


def storage_bytes(tensor):
    """The whole storage under a tensor, as a numpy array of bytes that shares its memory."""
    return torch.tensor([], dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()


class TensorMemory:
    """Places tensors in an arena, a storage once; only the elements of the tensors themselves may be touched."""

    def __init__(self):
        self.arena = ptx.Arena()
        self.storages = {}  # data pointer of a storage -> (item, address, bytes)

    def address(self, tensor, name):
        """The device address of a tensor's first element; its alignment is that of the CPU address up to 64 bytes."""
        if tensor.device.type != "cpu":
            raise ValueError(f"{name}: a tensor on {tensor.device}, expected cpu")
        storage = tensor.untyped_storage()
        key = storage.data_ptr() or id(storage)
        if key not in self.storages:
            data = storage_bytes(tensor)
            address = self.arena.add(name, data, own=False)
            self.storages[key] = (len(self.arena.items) - 1, address, data)
        item, address, _ = self.storages[key]
        size = tensor.element_size()
        start = tensor.storage_offset() * size
        self.arena.own(item, start, tensor.shape, [stride * size for stride in tensor.stride()], size)
        return address + start

    def write_back(self):
        """Copies what the kernel wrote to the tensors."""
        for item, _, data in self.storages.values():
            data[:] = self.arena.result(item)
