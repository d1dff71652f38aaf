"""Environment of every command that loads torch; imported before it, because OpenMP reads its settings once."""

import os

# OpenMP threads that spin while they wait starve whatever shares their cores: beside DataLoader workers torch becomes
# ten times slower. Sleeping costs next to nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
