"""A stand-in for the driver's library, as far as it is asked what a captured graph consists of."""

import ctypes

from support import strict_cuda

KERNEL, COPY = 0, 1  # CUgraphNodeType


def nodes(graph):
    """The nodes so far of what is being captured, if that is the graph."""
    stream = strict_cuda.state.capturing
    assert stream is not None and graph.value == stream.ptr, "no graph of a capture"
    return stream.nodes


class Driver:
    """What ctypes.CDLL gives for libcuda; the handle of a graph is its stream's."""

    def cuStreamGetCaptureInfo_v2(self, stream, status, identity, graph, dependencies, number):
        assert isinstance(stream, ctypes.c_void_p) and dependencies is number is None
        status._obj.value, graph._obj.value = 1, stream.value
        return 0

    def cuGraphGetNodes(self, graph, array, number):
        found = nodes(graph)
        assert array is None or len(array) == number._obj.value == len(found)
        for i in range(0 if array is None else len(array)):
            array[i] = i + 1
        number._obj.value = len(found)
        return 0

    def cuGraphNodeGetType(self, node, kind):
        named = strict_cuda.state.capturing.nodes[node.value - 1].name
        kind._obj.value = COPY if named == "setitem" else KERNEL
        return 0


def install(monkeypatch):
    """Put it where the library is loaded from."""
    real = ctypes.CDLL

    def load(name, *given, **named):
        return Driver() if name == "libcuda.so.1" else real(name, *given, **named)

    monkeypatch.setattr(ctypes, "CDLL", load)
