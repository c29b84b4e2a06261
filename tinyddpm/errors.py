"""The package's own errors: whatever a user can cause is one of these, with one clear line."""


class TinyDDPMError(Exception):
    """Anything that tinyddpm refuses or cannot finish; the command line turns it into one line and
    exit code 1.
    """


class InputError(TinyDDPMError, ValueError):
    """Wrong use or bad input (a file, an array, an option); the command line exits with code 2."""
