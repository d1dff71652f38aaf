"""Settings of every test: one thread (torch collapses beside other work), no network, temporary folders only."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # of pytest-xdist, which passes its own environment on
if not _WORKER:
    _SCRATCH = tempfile.TemporaryDirectory(prefix="facsuite-tests-")
    os.environ["FACSUITE_TESTS"] = _SCRATCH.name
for _name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
    os.environ[_name] = str(Path(os.environ["FACSUITE_TESTS"]) / (_WORKER + _name.lower()))
    Path(os.environ[_name]).mkdir()
os.environ["FACSUITE_CACHE"] = str(Path(os.environ["FACSUITE_TESTS"]) / "cache")  # one for all: twins render once

import pytest  # noqa: E402

from datamodules.synth import roots  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _render_in_process() -> Iterator[None]:
    """Twins of the tests are small, and processes take seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roots, "usable_cpus", lambda: 1)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data beside the checkout; tests that need it skip where it is absent."""
    path = Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("the reference data (../shared) is not beside this checkout")
    return path


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command of experiments/ in a process of its own, in a temporary folder."""

    def run(script: str, *words: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(Path(__file__).parents[1] / "experiments" / script), *map(str, words)]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=timeout, check=False)

    return run
