"""The places of a graph's tensors in the compute buffers: ggml-alloc.c.

    buffer_bytes(placed, gpu_count=1)        bytes by device, the host last

Every tensor gets the smallest free block that it fits in and gives it back after its last use; some are computed in
place. The buffer's size is the highest end that any tensor has.
"""

from __future__ import annotations

from nexus_tasks.hostlib.tensor_types import TENSOR_TYPES

from .scheduler import Placed
from .tensors import F16, IN_PLACE, Tensor, row_bytes

GPU_ALIGNMENT, HOST_ALIGNMENT = 128, 32
ROW_PADDING = 512  # elements; of quantized rows on CUDA
ENDLESS = 1 << 62


def buffer_bytes(placed: Placed, gpu_count: int) -> list[int]:
    """The bytes of each device's compute buffer."""
    buffers = [_Buffer(HOST_ALIGNMENT if device == gpu_count else GPU_ALIGNMENT) for device in range(gpu_count + 1)]
    allocation = _Allocation(buffers, gpu_count)
    for tensor, device in placed.leafs:
        allocation.allocate(tensor, device)
    for node, device in placed.nodes:
        if node.view and node.op != "none":
            node.view.views += 1
        if node.input:
            allocation.allocate(node, device)
        for source in node.src:
            source.children += 1
            if source.input:
                allocation.allocate(source, device)
    for node, device in placed.nodes:
        for source in node.src:
            allocation.allocate(source, device)
        allocation.allocate(node, device)
        for source in node.src:
            allocation.used(source)
    return [buffer.high for buffer in buffers]


def cuda_bytes(tensor: Tensor) -> int:
    """ggml_backend_cuda_buffer_type_get_alloc_size."""
    size = tensor.data_bytes()
    if tensor.op == "flash_attn":
        return _with_f16_copies(tensor, size)
    return size + row_padding(tensor.type, tensor.ne[0])


def row_padding(kind: int, elements: int) -> int:
    """Bytes behind a quantized tensor whose rows are no multiple of 512."""
    rest = elements % ROW_PADDING
    if not rest or TENSOR_TYPES[kind].per_block == 1:
        return 0
    return row_bytes(kind, ROW_PADDING - rest)


def _with_f16_copies(attention: Tensor, size: int) -> int:
    """FlashAttention over a cache of another type than f16, but for single tokens, converts all of it first."""
    q, k, v = attention.src[:3]
    if q.ne[1] <= 2 and q.ne[0] <= 256:
        return size
    if k.type != F16:
        size = padded(size, GPU_ALIGNMENT) + 2 * k.element_count
    if v.type != F16 and v.view is not k.view:
        size = padded(size, GPU_ALIGNMENT) + 2 * v.element_count
    return size


def padded(size: int, alignment: int) -> int:
    """The next multiple."""
    return size + -size % alignment


class _Buffer:
    """ggml_dyn_tallocr: free blocks by offset, the last of which has no end."""

    def __init__(self, alignment: int) -> None:
        self.alignment = alignment
        self.free = [[0, ENDLESS]]  # offset and size
        self.high = 0

    def take(self, size: int) -> int:
        """The offset of so many bytes."""
        size += -size % self.alignment
        free, best, best_size = self.free, -1, ENDLESS
        for index in range(len(free) - 1):
            there = free[index][1]
            if size <= there <= best_size:
                best, best_size = index, there
        block = free[best]
        offset = block[0]
        block[0] += size
        block[1] -= size
        if not block[1]:
            del free[best]
        self.high = max(self.high, offset + size)
        return offset

    def give(self, offset: int, size: int) -> None:
        """Free a block, and join it with its neighbours."""
        size += -size % self.alignment
        free = self.free
        for index, block in enumerate(free):
            if block[0] + block[1] == offset:
                block[1] += size
                if index + 1 < len(free) and block[0] + block[1] == free[index + 1][0]:
                    block[1] += free.pop(index + 1)[1]
                return
            if offset + size == block[0]:
                block[0] = offset
                block[1] += size
                if index and free[index - 1][0] + free[index - 1][1] == offset:
                    free[index - 1][1] += free.pop(index)[1]
                return
        place = 0
        while place < len(free) and free[place][0] < offset:
            place += 1
        free.insert(place, [offset, size])


class _Allocation:
    """ggml_gallocr: the tensors' places while the graph is gone through."""

    def __init__(self, buffers: list[_Buffer], host: int) -> None:
        self._buffers, self._host = buffers, host

    def allocate(self, tensor: Tensor, device: int) -> None:
        """Give a tensor its place, where it has none yet."""
        if tensor.allocated or tensor.view or tensor.resident >= 0:
            return
        tensor.allocated = True
        tensor.backend = device
        tensor.size = tensor.data_bytes() if device == self._host else cuda_bytes(tensor)
        if tensor.op in IN_PLACE and self._in_place(tensor):
            return
        tensor.offset = self._buffers[device].take(tensor.size)

    def _in_place(self, tensor: Tensor) -> bool:
        """Take a source's place, where this is its last use; views have none of their own."""
        for source in tensor.src:
            if source.view or not source.allocated or source.output or not _same_layout(tensor, source):
                continue
            if source.children == 1 and not source.views:
                source.allocated = False
                tensor.backend, tensor.offset = source.backend, source.offset
                self._free_rest(tensor, source)
                return True
        return False

    def _free_rest(self, tensor: Tensor, source: Tensor) -> None:
        buffer = self._buffers[source.backend]
        there, needed = padded(source.size, buffer.alignment), padded(tensor.size, buffer.alignment)
        if there > needed:
            buffer.give(source.offset + needed, there - needed)

    def used(self, source: Tensor) -> None:
        """One of a tensor's uses is over; after the last its place is free."""
        source.children -= 1
        if source.children or source.views:
            return
        if source.view:
            owner = source.view
            owner.views -= 1
            if not owner.views and not owner.children and owner.allocated:
                self._free(owner)
        elif source.allocated:
            self._free(source)

    def _free(self, tensor: Tensor) -> None:
        if not tensor.output:
            self._buffers[tensor.backend].give(tensor.offset, tensor.size)
            tensor.allocated = False


def _same_layout(a: Tensor, b: Tensor) -> bool:
    return a.type == b.type and a.ne == b.ne and a.nb == b.nb
