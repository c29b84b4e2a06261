"""Arrays that travel between graphics cards by NCCL, by calls named as MPI's.

NCCL's calls are kernels on the current stream: nothing here waits for the device, and a step that
contains them can be recorded as a graph.
"""

import contextlib
import importlib
import platform
import warnings

from tinyddpm.errors import InputError

INSTALL = "pip install nvidia-nccl-cu13 (or -cu12, as your CuPy)"


def use_own_device(cupy, comm, place):
    """Use a card of this process's own from here on. Raises InputError where two share one.

    Args:
        cupy: the module.
        comm: MPI's communicator.
        place: which of the processes on this machine this one is.
    """
    runtime = cupy.cuda.runtime
    runtime.setDevice(place % runtime.getDeviceCount())
    cards = comm.allgather((platform.node(), runtime.deviceGetPCIBusId(runtime.getDevice())))
    for rank, card in enumerate(cards):
        if cards.index(card) < rank:
            line = f"ranks {cards.index(card)} and {rank} have one GPU: each rank needs its own"
            raise InputError(line)


class Nccl:
    """As much of MPI's communicator as a reduction needs, for the arrays of cards.

    A message is (array, (how much of it each rank gets or gives, and from where on)).

    Args:
        cupy: the module, on this process's own card.
        comm: MPI's communicator of the same processes.
    """

    def __init__(self, cupy, comm):
        self.cupy, self.comm = cupy, comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.nccl = self.link = None

    def Barrier(self):
        """Connect the processes, where they are not. Raises InputError where that fails."""
        if self.link is not None:
            return
        with contextlib.suppress(ImportError), warnings.catch_warnings(action="ignore"):
            self.nccl = importlib.import_module("cupy.cuda.nccl")
        there = self.comm.allgather(self.nccl is not None and self.nccl.available)
        if not all(there):
            rank = there.index(False)
            raise InputError(f"ranks on GPUs need NCCL, and rank {rank} has none: {INSTALL}")
        try:
            name = self.comm.bcast(self.nccl.get_unique_id() if self.rank == 0 else None)
            self.link = self.nccl.NcclCommunicator(self.size, name, self.rank)
        except self.nccl.NcclError as error:
            raise InputError(f"NCCL does not connect the ranks: {error}") from None

    def Alltoallv(self, given, taken):
        """Each rank's part of an array to it, and theirs for this one into another array."""
        (sent, going), (room, coming) = given, taken
        with self._together():
            for rank in range(self.size):
                for move, array, (counts, starts) in (
                    (self.link.send, sent, going),
                    (self.link.recv, room, coming),
                ):
                    if counts[rank]:
                        move(*self._part(array, starts[rank], counts[rank]), rank, self._stream())

    def Allgatherv(self, part, taken):
        """Every rank's part, in its place in an array of every rank."""
        whole, (counts, starts) = taken
        with self._together():
            for rank in range(self.size):
                if counts[rank]:
                    where, *much = self._part(whole, starts[rank], counts[rank])
                    source = part.data.ptr if rank == self.rank else where
                    self.link.broadcast(source, where, *much, rank, self._stream())

    def Allgather(self, part, whole):
        """As `Allgatherv`, of parts of one size that follow each other."""
        where, *much = self._part(part, 0, part.size)
        self.link.allGather(where, whole.data.ptr, *much, self._stream())

    def Allreduce(self, _, array):
        """The sum over all ranks, in an order that is NCCL's."""
        where, *much = self._part(array, 0, array.size)
        self.link.allReduce(where, where, *much, self.nccl.NCCL_SUM, self._stream())

    def _part(self, array, start, count):
        """Where a part begins, how many numbers it has and of which kind."""
        kind = {"float32": self.nccl.NCCL_FLOAT32, "float64": self.nccl.NCCL_FLOAT64}
        name = array.dtype.name
        return array.data.ptr + int(start) * array.dtype.itemsize, int(count), kind[name]

    def _stream(self):
        return self.cupy.cuda.get_current_stream().ptr

    @contextlib.contextmanager
    def _together(self):
        """One group of calls, none of which can wait for another's partner."""
        self.nccl.groupStart()
        try:
            yield
        finally:
            self.nccl.groupEnd()
