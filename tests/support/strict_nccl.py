"""A stand-in for cupy.cuda.nccl between MPI's ranks, as strict as NCCL, over the strict CuPy.

A call becomes part of its group, and a group one operation of the device: while a stream is
captured it is a node of the graph, and what it sends is sent at each launch. Refused is what NCCL
would misread or wait for in vain: another stream than the current one, numbers of other types, a
lone send or recv, a connection while a stream is captured. What it cannot show: NCCL's speed, and
two cards' own clocks.
"""

import functools
import sys
from types import ModuleType

import numpy as np

from support import strict_cuda, strict_cupy

KINDS = {7: np.float32, 8: np.float64}
groups = []  # of the calls that are open
ended = []  # the names of the calls of each group that was ended


class NcclError(RuntimeError):
    """What NCCL refuses."""


def get_unique_id():
    return bytes(range(128))


def groupStart():
    groups.append([])


def groupEnd():
    calls = groups.pop()
    if not calls:
        return
    ended.append([name for name, _ in calls])
    strict_cuda.submit("nccl", functools.partial(_run, [run for _, run in calls]))


def _run(runs):
    """Post everything, then wait: no call of a group waits for another."""
    for request in [run() for run in runs]:
        request.Wait()


class NcclCommunicator:
    """One rank of several; their messages go by MPI."""

    def __init__(self, size, name, rank):
        from mpi4py import MPI

        strict_cuda.refuse("a connection of NCCL")
        assert type(name) is bytes and len(name) == 128
        self.MPI, (self.comm, devices) = MPI, world
        assert (self.comm.Get_size(), self.comm.Get_rank()) == (size, rank)
        used = self.comm.allgather(strict_cuda.state.device)
        if len(set(used)) < size or max(used) >= devices:
            raise NcclError("NCCL_ERROR_INVALID_USAGE: two ranks on one device")

    def send(self, address, count, kind, peer, stream):
        assert groups, "a lone send"
        part = self._part(address, count, kind, stream)
        self._call("send", lambda: self.comm.Isend(part, peer))

    def recv(self, address, count, kind, peer, stream):
        assert groups, "a lone recv"
        part = self._part(address, count, kind, stream)
        self._call("recv", lambda: self.comm.Irecv(part, peer))

    def broadcast(self, source, target, count, kind, root, stream):
        part = self._part(target, count, kind, stream)
        own = self._part(source, count, kind, stream)

        def run():
            if self.comm.Get_rank() == root and source != target:
                part[:] = own
            return self.comm.Ibcast(part, root)

        self._call("broadcast", run)

    def allGather(self, source, target, count, kind, stream):
        own = self._part(source, count, kind, stream)
        whole = self._part(target, count * self.comm.Get_size(), kind, stream)
        self._call("allGather", lambda: self.comm.Iallgather(own, whole))

    def allReduce(self, source, target, count, kind, operation, stream):
        assert operation == NCCL_SUM and source == target
        whole = self._part(target, count, kind, stream)
        self._call("allReduce", lambda: self.comm.Iallreduce(self.MPI.IN_PLACE, whole))

    def _part(self, address, count, kind, stream):
        """The array that lies there."""
        assert {type(address), type(count), type(kind), type(stream)} == {int}
        assert count > 0 and stream == strict_cuda.state.streams[-1].ptr
        return strict_cuda.at_address(address, count, KINDS[kind])

    def _call(self, name, run):
        groupStart()
        groups[-1].append((name, run))
        if len(groups) > 1:
            groups[-2].extend(groups.pop())
        else:
            groupEnd()


NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = 7, 8, 0
world = None  # the communicator whose ranks are connected next, and how many devices there are
OWN = ("available", "get_unique_id", "groupStart", "groupEnd", "NcclCommunicator", "NcclError")
OWN += ("NCCL_FLOAT32", "NCCL_FLOAT64", "NCCL_SUM")
available = True


def install(comm, devices):
    """Be found beside the strict CuPy, in this process, for so many devices of each machine."""
    global world
    module = ModuleType("cupy.cuda.nccl")
    for name in OWN:
        setattr(module, name, globals()[name])
    cupy = strict_cupy.strict()
    cupy.cuda.runtime.getDeviceCount = lambda: devices
    sys.modules["cupy"], sys.modules["cupy.cuda.nccl"], world = cupy, module, (comm, devices)
    return module
