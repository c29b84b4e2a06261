"""Several processes as one: MPI's ranks, which share the shards of a batch.

The gradients of a step are added in the order of `shards.additions`, whoever computed them: MPI,
or NCCL between graphics cards, moves them and adds nothing. Each rank gets a slice of every partial
sum, adds the slice, and all get all slices: 2 (N - 1) / N times the gradient's bytes go out of a
rank each step, whatever N is.

Nothing else in the package knows of ranks, and nothing imports this module where there is no MPI.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import pathlib
import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from . import __version__
from .early import Early, Patient
from .errors import InputError, TinyDDPMError, described
from .process import Array
from .shards import Alone, Share, T, add, additions

GRACE = 1.0  # seconds in which the other ranks must fail too, or they are ended
PIECE = 2**18  # floats of a message: what is added is then still in the processor's cache
POLL = 0.005  # seconds between two looks at whether they did
LINE = 2**10  # bytes of a failure's line that a rank tells the others
REDUCE = ("tree", "sum")  # how gradients are added: in the run's own order, or in MPI's
INSTALL = "pip install 'tinyddpm[mpi]'"

Tell = Callable[[str], object]  # prints one line, in whichever rank it is called


class Plan(NamedTuple):
    """Who adds which partial sums."""

    local: list[list[tuple[int, int]]]  # the additions of each rank, among its own shards
    heads: list[list[int]]  # of each rank: the shards where its partial sums are after that
    rest: list[tuple[int, int]]  # the additions that are left, of partial sums of several ranks


@functools.cache
def plan(count: int, size: int) -> Plan:
    """The tree of `shards.additions` for `count` shards, `size` ranks having as many each."""
    each, gone = count // size, set[int]()
    found = Plan([[] for _ in range(size)], [[] for _ in range(size)], [])
    for i, j in additions(count):
        if i // each == j // each and not {i, j} & gone:
            found.local[i // each].append((i, j))
            continue
        for k in (i, j):
            if k not in gone:
                found.heads[k // each].append(k)
        gone |= {i, j}
        found.rest.append((i, j))
    if not gone:
        found.heads[0].append(0)
    return found


class Ranks(Alone):
    """The ranks of an MPI communicator, each with a whole number of a batch's shards.

    As a context it ends all ranks where one of them fails.

    Args:
        comm: the communicator.
        reduce: "tree", whose bits do not depend on the number of ranks, or "sum": one Allreduce of
            each rank's own sum, which is faster where a rank has several partial sums, and whose
            last bits depend on the number of ranks and on the MPI.
    """

    def __init__(self, comm: Any, reduce: str = "tree") -> None:
        if reduce not in REDUCE:
            raise InputError(f"reduce must be one of {', '.join(REDUCE)}, got {reduce!r}")
        self.comm, self.reduce = comm, reduce
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.ends = comm.Dup()  # where ranks tell each other how they end
        beside = comm.Split_type(_mpi().COMM_TYPE_SHARED)
        self.place, self.neighbours = int(beside.Get_rank()), int(beside.Get_size())
        self.xp: Any = np
        self.wire, self.piece = comm, PIECE  # what gradients travel by, and how much at a time
        self.room: dict[tuple[int, int], Array] = {}
        # Between machines a part of the gradient travels while the rest is computed.
        self.ahead = self.neighbours < self.size
        self.patient = Patient(comm.Dup())
        self.part: tuple[int, Early] | None = None  # where it begins, and who adds it

    def mine(self, count: int) -> range:
        """As `Alone.mine`. Raises InputError where the ranks cannot have as many each."""
        if count % self.size:
            raise InputError(
                f"{self.size} ranks cannot share {count} shards evenly: "
                f"let --shards (at most --batch) be a multiple of {self.size}"
            )
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def use(self, ops: Any) -> Any:
        """As `Alone.use`: a graphics card of its own for every rank."""
        self.xp, self.room = ops.xp, {}
        self.wire = ops.between(self.comm, self.place)
        self.piece = sys.maxsize if ops.lazy else PIECE
        return ops

    def check(self, count: int) -> None:
        """As `Alone.check`."""
        self.mine(count)
        self.wire.Barrier()

    def additions(self, count: int) -> list[tuple[int, int]]:
        """As `Alone.additions`."""
        return plan(count, self.size).local[self.rank]

    def early(
        self, grads: Mapping[int, Array], count: int, start: int
    ) -> Callable[[], object] | None:
        """As `Alone.early`: on the host, between machines, where MPI allows it several threads."""
        several = _mpi().Query_thread() == _mpi().THREAD_MULTIPLE
        if not (self.ahead and several) or self.wire is not self.comm or self.reduce == "sum":
            return None

        def add_part():
            self._add({k: g[start:] for k, g in grads.items()}, count, self.patient)

        self.part = start, Early(add_part, len(self.mine(count)))
        return self.part[1]

    def total(self, grads: Mapping[int, Array], losses: list[Any]) -> tuple[Array, Any]:
        """As `Alone.total`."""
        count, own = len(losses) * self.size, self.xp.stack(losses)
        if self.part:
            self.part[1].wait()
            rest, self.part = self.part[0], None
            self._add({k: g[:rest] for k, g in grads.items()}, count, self.wire)
        else:
            self._add(grads, count, self.wire)
        every = self.xp.empty(count, own.dtype)
        self.wire.Allgather(own, every)
        return grads[min(grads)], sum(every[k] for k in range(count))

    def _add(self, grads, count, wire):
        """The sum over all ranks, in this rank's first gradient."""
        todo, out = plan(count, self.size), grads[min(grads)]
        add(grads, [(i, j) for i, j in todo.local[self.rank] if j in grads])  # not added yet
        heads = todo.heads[self.rank]
        if self.reduce == "sum":
            add(grads, ((min(grads), k) for k in heads if k != min(grads)))
            wire.Allreduce(_mpi().IN_PLACE, out)
            return
        length = min(out.size, self.piece * self.size)
        for start in range(0, out.size, length):
            piece = slice(start, start + length)
            self._tree({k: grads[k][piece] for k in heads}, todo, out[piece], wire)

    def _tree(self, grads, todo, out, wire):
        """The sum over all ranks of a piece, in `out`: each adds its slice of all partial sums."""
        edges = np.linspace(0, out.size, self.size + 1).astype(int)
        sizes = np.diff(edges)
        pieces: dict[int, Array] = {}
        for k in range(max(map(len, todo.heads))):
            who = [k < len(heads) for heads in todo.heads]
            sent = grads[todo.heads[self.rank][k]] if who[self.rank] else out[:0]
            room = self._room(k, sum(who) * sizes[self.rank])
            received = np.array(who) * sizes[self.rank]
            starts = np.cumsum(received) - received
            going = (sizes, edges[:-1]) if who[self.rank] else (0 * sizes, 0 * sizes)
            wire.Alltoallv([sent, going], [room, (received, starts)])
            for heads, start, length in zip(todo.heads, starts, received):
                if k < len(heads):
                    pieces[heads[k]] = room[start : start + length]
        add(pieces, todo.rest)
        wire.Allgatherv(pieces[0], [out, (sizes, edges[:-1])])

    def _room(self, k, length):
        """A buffer that is kept from step to step: fresh memory costs more than what fills it."""
        key = (k, int(length))
        if key not in self.room:
            self.room[key] = self.xp.empty(key[1], np.float32)
        return self.room[key]

    def spread(self, share: Share) -> Share:
        """As `Alone.spread`: of the items, rank r takes number r, r + N, ..."""

        def over_ranks(f, items):
            items = list(items)
            found = self.comm.allgather(list(share(f, items[self.rank :: self.size])))
            return [found[i % self.size][i // self.size] for i in range(len(items))]

        return over_ranks

    def most(self, number: int) -> int:
        """As `Alone.most`."""
        found = np.array([number], np.int64)
        self.comm.Allreduce(_mpi().IN_PLACE, found, _mpi().MAX)
        return int(found[0])

    def once(self, f: Callable[[], T]) -> T:
        """As `Alone.once`: every rank returns it, or raises the same TinyDDPMError."""
        value, error = None, None
        if self.first:
            try:
                value = f()
            except TinyDDPMError as failure:
                error = failure
        value, error = self.comm.bcast((value, error))
        if error is not None:
            raise error
        return value

    def same(self, about: Mapping[str, Any]) -> None:
        """As `Alone.same`."""
        every = self.comm.allgather(dict(about))
        for rank, other in enumerate(every):
            names = [name for name in every[0] | other if every[0].get(name) != other.get(name)]
            if names:
                pairs = (f"{name} ({every[0].get(name)}; {other.get(name)})" for name in names)
                raise InputError(f"rank 0 and rank {rank} differ in {', '.join(pairs):.600}")

    # How ranks end.

    def end(self, line: str | None, code: int, tell: Tell) -> int:
        """Agree on the exit code; where ranks differ, the first one that failed is named.

        A rank that fails while others do not come here, in GRACE seconds, ends them all.

        Args:
            line: what went wrong, or None.
            code: 0, or how this rank would exit.
            tell: prints a line.

        Returns:
            The exit code.
        """
        try:
            found = self._agreed(line or "", code)
        except KeyboardInterrupt:
            found = None
        if found is None:
            tell(f"rank {self.rank}: {line or f'ends with exit code {code}'}")
            self.leave(code or 130)
        codes = [each for each, _ in found]
        failed = [rank for rank in range(self.size) if codes[rank]]
        if failed and self.first:
            rank = failed[0]
            text = found[rank][1]
            if text:
                tell(text if len(failed) == self.size else f"rank {rank}: {text}")
        if failed and self.part:  # MPI's own end would wait for what others never send
            time.sleep(0 if self.first else GRACE)
            self.leave(codes[failed[0]])
        return codes[failed[0]] if failed else 0

    def _agreed(self, line, code):
        """[(code, line)] of all ranks; None where this one failed and others do not come."""
        own, every = np.zeros(LINE, np.uint8), np.empty((self.size, LINE), np.uint8)
        text = line.encode()[: LINE - 2]
        own[0], own[1 : 1 + len(text)] = code, np.frombuffer(text, np.uint8)
        request, end = self.ends.Iallgather(own, every), time.monotonic() + GRACE
        while not request.Test():
            if code and time.monotonic() > end:
                return None
            time.sleep(POLL)
        return [(int(x[0]), x[1:].tobytes().rstrip(b"\0").decode(errors="ignore")) for x in every]

    def leave(self, code: int) -> NoReturn:
        """As `Alone.leave`: every rank ends with this one."""
        for stream in filter(None, (sys.stdout, sys.stderr, sys.__stderr__)):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # MPI has more to say than the line
        self.comm.Abort(code)
        os._exit(code)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        code = 0 if error is None else 2 if isinstance(error, InputError) else 1
        tell = functools.partial(print, file=sys.__stderr__, flush=True)
        self.end(described(error) if error else None, code, tell)


def join(reduce: str = "tree") -> Ranks:
    """This process's place among the ranks that MPI's starter has started.

    From here on only rank 0 prints: the others' standard streams lead nowhere.

    Raises InputError without MPI, and where the ranks' versions differ.
    """
    ranks = Ranks(_mpi().COMM_WORLD, reduce)
    if not ranks.first:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  until the process ends
    about = {"tinyddpm": __version__, "python": platform.python_version(), "numpy": np.__version__}
    ranks.same(about)
    return ranks


@functools.cache
def _mpi():
    """mpi4py's MPI, initialised by its import. Raises InputError where it is not there."""
    try:
        import mpi4py

        mpi4py.rc.thread_level = "multiple"  # the main thread, and one that adds early
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        text = f"several processes need MPI: {INSTALL}, or mpi4py beside your cluster's MPI"
        raise InputError(f"{text} ({error})") from None
    return MPI


# Processes.


def starter() -> str | None:
    """The path of mpiexec: MPICH's or Open MPI's beside this Python, or the first on PATH."""
    beside = pathlib.Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def start(ranks: int, argv: list[str]) -> NoReturn:
    """Have MPI's starter take this process's place, and run the command line in so many ranks.

    Raises InputError without MPI.
    """
    found = starter()
    for what, there in (("mpi4py", importlib.util.find_spec("mpi4py")), ("mpiexec", found)):
        if not there:
            raise InputError(f"--ranks needs MPI, and {what} is not there: {INSTALL}")
    os.environ.setdefault("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")  # Open MPI's
    command = [str(found), "-n", str(ranks), sys.executable, "-m", "tinyddpm", *argv]
    os.execv(command[0], command)


def guard(rank: str) -> None:
    """Let a child process be this rank, and this one tell in one line where a signal killed it.

    A rank that is killed can say nothing itself, and MPI's starters tell its process number or
    nothing. Linux alone can end the child with its parent; elsewhere this process is the rank.
    """
    if sys.platform != "linux":
        return
    parent = os.getpid()
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.setpgid(0, 0)  # a signal to the group comes by way of the parent, once
        if os.getppid() != parent:
            os._exit(1)
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        name = signal.Signals(-code).name
        os.write(2, f"tinyddpm: rank {rank} was killed by {name}\n".encode())
        code = 128 - code
        if "PMI_FD" in os.environ:  # MPICH's starter ends all ranks, and says nothing, if asked to
            with contextlib.suppress(OSError, ValueError):
                os.write(int(os.environ["PMI_FD"]), f"cmd=abort exitcode={code}\n".encode())
                time.sleep(GRACE)
    os._exit(code)
