"""Running one command, alone or as one of the ranks of MPI's starter.

Its failure is one line on standard error: 0 done; 1 failed; 2 wrong use or bad input; 130 and 143
interrupted.
"""

import argparse
import functools
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ..errors import InputError, TinyDDPMError, described
from ..shards import ALONE
from .terminal import Say, Stopped, complain

# What MPI's starters say in the environment of the processes that they start: MPICH's, Open MPI's
# and those of clusters.
STARTED = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")


def main(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Run one command; returns the exit code.

    Args:
        parser: of the command line; it sets `command` to a function of the options.
        argv: the command line, or None for the process's own.
    """
    say = Say()
    argv = sys.argv[1:] if argv is None else list(argv)
    started = next((os.environ[name] for name in STARTED if name in os.environ), None)
    try:
        team = ALONE if started is None else _joined(started)
    except InputError as error:  # every rank has it alike
        if started == "0":
            complain(error)
        return 2
    try:
        code = _run(parser, argv, say, team)
    except SystemExit as stop:  # of --help, --version and wrong options
        code = team.end("", int(stop.code or 0), _tell(team))
        if say.close():
            return 1
        raise SystemExit(code) from None
    return say.close() or code


def _joined(started):
    """This process's place among the ranks, which the starter has told it."""
    from .. import parallel

    parallel.guard(started)
    return parallel.join()


def _run(parser, argv, say, team):
    """The exit code of one command, the same in every rank."""
    try:
        args = parser.parse_args(argv)
    except TinyDDPMError as error:
        return team.end(str(error), 2 if isinstance(error, InputError) else 1, _tell(team))
    args.say, args.team, args.stopped = say, team, Stopped(team)
    line: Any = ""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: complain(message)
            _check_ranks(args, argv, team)
            code = args.command(args)
    except InputError as error:
        line, code = error, 2
    except TinyDDPMError as error:
        line, code = error, 1
    except MemoryError as error:
        line, code = f"out of memory: {error or 'the system gives no more'}", 1
    except OSError as error:  # that nothing nearer to it has put into words
        line, code = f"{error.filename or 'the system'}: {error.strerror or error}", 1
    except KeyboardInterrupt as stop:
        line, code = stop if stop.args else "interrupted", args.stopped.signal or signal.SIGINT
        code += 128
    except Exception as error:  # of one rank: the others wait for it
        if team.size == 1:
            raise
        line, code = described(error), 1
    finally:
        args.stopped.close()
    return team.end(str(line), code, _tell(team))


def _check_ranks(args, argv, team):
    """Start --ranks N processes in this one's place, or hold N against those that there are."""
    wanted = getattr(args, "ranks", None)
    if wanted is not None and wanted < 1:
        raise InputError(f"--ranks must be at least 1, got {wanted}")
    if wanted not in (None, 1, team.size):
        if team.size > 1:
            raise InputError(f"--ranks {wanted}, but {team.size} processes were started")
        from .. import parallel

        parallel.start(wanted, argv)
    if team.size > 1 and not hasattr(args, "ranks"):
        raise InputError(f"{argv[0]} works in one process: start it without mpiexec")
    reduce = getattr(args, "reduce", None)
    if reduce and team is ALONE:
        raise InputError("--reduce is for several ranks: give --ranks too")
    if reduce:
        team.reduce = reduce


def _tell(team):
    """Prints a line on the standard error that this process was started with."""
    return functools.partial(complain, stream=sys.__stderr__ if team.rank else None)
