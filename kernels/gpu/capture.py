"""A step recorded once as a CUDA graph, for each shape, and replayed with one launch.

A launch costs the host ten microseconds, and a train step has a thousand kernels: a recorded step
costs as much as one. What a graph reads and writes lies at fixed addresses: its arrays come from a
pool of its own, and the numbers that change from step to step (a Clock, whole and real numbers) lie
in two small arrays that one small kernel fills, by value, before each replay.
"""

import contextlib
import sys
from collections import OrderedDict
from typing import Any

import numpy as np

from tinyddpm.errors import DeviceFull
from tinyddpm.nn.device import Clock, StepNumbers

from .launch import counter

WARM_RUNS = 2  # before a step is recorded: they compile, load and allocate what it needs
MOST = 6  # shapes of one step that are kept recorded


def say(line, said=set()):  # noqa: B006 (what has been said in this process)
    """Print a line on standard error, once in a process."""
    if line not in said:
        said.add(line)
        print(f"tinyddpm: {line}", file=sys.stderr, flush=True)


class Held:
    """The numbers of a step on the device, eight words and eight floats at fixed addresses."""

    def __init__(self, ops):
        self.ops = ops
        self.words, self.reals = ops.xp.empty(8, np.uint32), ops.xp.empty(8, np.float32)

    def take(self, numbers):
        """Become these StepNumbers; returns them as what the operations read on the device."""
        clock, whole, real = numbers
        k0, k1, _, step, first = counter(1, clock.seed, 0, clock.step, clock.first_sample)
        words = k0, k1, 0, step, first, *(np.int32(n).view(np.uint32) for n in whole)
        self.ops._assign(self.words, self.reals, words, real)
        places = self.words.view(np.int32)
        held = tuple(places[5 + i : 6 + i] for i in range(len(whole)))
        return StepNumbers(Clock(0, self.words[:5], 0), held, self.reals[: len(real)])


class NotRecorded(Exception):
    """A step does something that CUDA or CuPy does not record."""


class Recording:
    """One shape of a step: what it reads and writes, and, once it has been recorded, its graph."""

    def __init__(self, ops, arrays):
        cuda = ops.xp.cuda
        self.ops, self.pool, self.runs, self.graph = ops, cuda.MemoryPool(), 0, None
        with cuda.using_allocator(self.pool.malloc):
            self.held = Held(ops)
            self.arrays = [ops.xp.empty(x.shape, x.dtype) for x in arrays]
        self.results: Any = None

    def run(self, function, numbers, arrays):
        """The function's results for these numbers and arrays, as new arrays."""
        cuda = self.ops.xp.cuda
        held = self.held.take(numbers)
        for mine, given in zip(self.arrays, arrays):
            mine[...] = given
        if self.graph is None and self.runs < WARM_RUNS:
            self.runs += 1
            self._warm(function, held)
        else:
            if self.graph is None:
                self.graph = self._record(function, held)
            self.graph.launch(cuda.get_current_stream())
        return tuple(x.copy() for x in self.results)

    def _warm(self, function, held):
        """Run it as it will be recorded: on the recording's stream, from its pool."""
        cuda, stream = self.ops.xp.cuda, self.ops.recording_stream
        before = cuda.get_current_stream()
        stream.wait_event(before.record())
        self.results = None
        with stream, cuda.using_allocator(self.pool.malloc):
            self.results = function(held, *self.arrays)
        before.wait_event(stream.record())

    def _record(self, function, held):
        """The graph of one run, which is not carried out. Raises NotRecorded if there is none."""
        cuda, stream = self.ops.xp.cuda, self.ops.recording_stream
        self.results = None
        with stream, cuda.using_allocator(self.pool.malloc):
            stream.begin_capture()
            try:
                self.results = function(held, *self.arrays)
            except (NotImplementedError, cuda.runtime.CUDARuntimeError) as error:
                with contextlib.suppress(cuda.runtime.CUDARuntimeError):
                    stream.end_capture()  # of what is no graph any more
                raise NotRecorded(" ".join(str(error).split())) from None
            return stream.end_capture()


class Repeated:
    """A function of a step's numbers and arrays that is recorded and replayed (`Ops.repeated`)."""

    def __init__(self, ops, function):
        self.ops, self.function, self.refused = ops, function, None
        self.recordings: OrderedDict[Any, Recording] = OrderedDict()

    def __call__(self, numbers, *arrays):
        """The function's results, new arrays on the current stream."""
        ops = self.ops
        why = self.refused or ops.why_not_recorded()
        if not why:
            ops.wait_turn()
            try:
                with ops.room():
                    return self._recording(arrays).run(self.function, numbers, arrays)
            except DeviceFull:
                self.recordings.clear()  # and with them the memory that they hold
                raise
            except NotRecorded as error:
                why = self.refused = str(error)
                self.recordings.clear()
        say(f"steps are launched kernel by kernel: {why}")
        with ops.room():
            return self.function(Held(ops).take(numbers), *arrays)

    def _recording(self, arrays):
        """The recording for arrays of these shapes, made where there is none; the oldest goes."""
        device = self.ops.xp.cuda.runtime.getDevice()
        key = device, *((x.shape, str(x.dtype)) for x in arrays)
        if key not in self.recordings:
            if len(self.recordings) >= MOST:
                self.recordings.popitem(last=False)
            self.recordings[key] = Recording(self.ops, arrays)
        self.recordings.move_to_end(key)
        return self.recordings[key]


class Recorder:
    """The part of the backend `cuda` that records steps."""

    recorded = True  # whether steps are recorded at all
    last_stream = None  # that a recorded step ran on

    def repeated(self, function):
        """Steps.repeated: recorded after WARM_RUNS calls for each shape, and then replayed."""
        return Repeated(self, function)

    def why_not_recorded(self):
        """Why no step can be recorded now, in words, or None where one can."""
        if self.products.why:
            return f"{self.products.why}; pip install 'tinyddpm[cuda13]' (or [cuda12])"
        if not self.recorded:
            return "recording is switched off"
        if self.xp.cuda.get_current_stream().is_capturing():
            return "the current stream is being captured by the program around"
        return None

    @property
    def recording_stream(self):
        """A stream that nothing but recordings and what leads up to them runs on, by device."""
        device = self.xp.cuda.runtime.getDevice()
        if device not in self._streams:
            self._streams[device] = self.xp.cuda.Stream(non_blocking=True)
        return self._streams[device]

    def wait_turn(self):
        """Let the current stream wait for the last recorded step, where it ran on another.

        Recordings share a workspace, and one recording's arrays are the same at each replay.
        """
        stream, last = self.xp.cuda.get_current_stream(), self.last_stream
        if last is not None and last.ptr != stream.ptr:
            stream.wait_event(last.record())
        self.last_stream = stream
