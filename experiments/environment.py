"""Environment of every command that loads torch; imported before it, because OpenMP reads its settings once."""

import ctypes
import os
import signal
import sys

# OpenMP threads that spin while they wait starve whatever shares their cores: beside DataLoader workers torch becomes
# ten times slower. Sleeping costs next to nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

_TIED = "FACSUITE_ENDS_WITH_PARENT"


def tied() -> dict[str, str]:
    """Environment of a command that shall end when this process does, even if this one is killed."""
    return os.environ | {_TIED: "1"}


if os.environ.get(_TIED) and sys.platform == "linux":  # nothing else can do it; before the seconds that torch takes
    _PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
