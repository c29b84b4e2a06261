"""A network of limited rate between two ranks of one machine, to check the model of reductions.

The ranks run in a network namespace of their own, whose loopback a token bucket (tc's tbf) slows
down; MPI is told to leave shared memory alone. Linux, as root, with unshare and tc.
"""

import pathlib
import subprocess

RATES = (1, 5, 10)  # Gb/s each way; two cores' TCP reaches 15
STEPS = 5  # Gb/s behind which whole steps are taken
LO = pathlib.Path("/proc/self/net/dev")  # of the namespace of the process that reads it
# MPICH's: no shared memory, libfabric's TCP; and the same for Open MPI, which was not tried.
TCP = {"MPIR_CVAR_NOLOCAL": "1", "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}
TCP |= {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "tcp,self"}


def command(rate):
    """The words before a command that has it run behind a loopback of `rate` Gb/s each way.

    Both ranks' messages pass the one loopback, so it gets twice the rate.
    """
    limit = f"tc qdisc add dev lo root tbf rate {2000 * rate:g}mbit burst 256kb latency 100ms"
    script = f'ip link set lo up && {limit} && exec "$@"'
    return ["unshare", "--net", "sh", "-c", script, "sh"]


def refusal():
    """Why there can be no such network here, in a line, or None where there can."""
    try:
        done = subprocess.run([*command(1), "true"], capture_output=True, text=True, timeout=60)
    except OSError as error:
        return str(error)
    return " ".join(done.stderr.split()) or f"exit {done.returncode}" if done.returncode else None


def passed():
    """The bytes that have left by the loopback."""
    lines = LO.read_text().splitlines() if LO.exists() else ()
    return next((int(line.split()[9]) for line in lines if line.strip().startswith("lo:")), 0)
