"""argparse's parser with complaints of one line, and help that shows every default."""

import argparse
import sys
from typing import Any, NoReturn

from ..errors import InputError, TinyDDPMError, did_you_mean


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default; where it is None the help itself tells what happens then."""

    def _get_help_string(self, action):
        shown = action.default is None or action.default is False
        return action.help if shown else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose complaints are one line, an InputError, with the nearest word."""

    def error(self, message: str) -> NoReturn:
        """Raise an InputError in the place of a page of usage."""
        raise InputError(f"{message} ({self.prog} --help)")

    def _print_message(self, message, file=None):
        """Print help or version; argparse's own would not tell of a disk that is full."""
        try:
            print(message, end="", file=file or sys.stdout)
        except BrokenPipeError:  # a reader that has had what it wanted
            raise SystemExit(0) from None
        except OSError as error:
            text = f"cannot write to standard output: {error.strerror}"
            raise TinyDDPMError(text) from None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What argparse makes of the arguments; the options of a command are known to it alone."""
        found, others = super().parse_known_args(args, namespace)
        unknown = next((each for each in others if each.startswith("-")), None)
        if unknown is not None:
            name = unknown.partition("=")[0]
            self.error(f"no option {name}{did_you_mean(name, self._option_string_actions)}")
        if others:
            self.error(f"one argument too many: {others[0]!r}")
        return found, others

    def _check_value(self, action, value):
        if action.choices is None or value in action.choices:
            return
        near = did_you_mean(value, action.choices)
        listed = ", ".join(map(str, action.choices))
        if action.metavar == "COMMAND":
            self.error(f"no command {value}{near or f': there are {listed}'}")
        raise argparse.ArgumentError(action, f"must be one of {listed}, got {value!r}{near}")
