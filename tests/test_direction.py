"""The direction of imports between the rooms, as docs/decisions.md states it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("lightning_modules", "datamodules", "callbacks", "experiments")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
PURE = {
    "network.py",
    "fau_network.py",
    "megraph_network.py",
    "losses.py",
    "metrics.py",
    "heads.py",
    "backbones.py",
    "norms.py",
}


def imports(path: Path) -> set[str]:
    """Full names of everything that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_their_direction(path: Path) -> None:
    room, *inner = path.relative_to(ROOT).parts
    for name in imports(path):
        where = f"{path.relative_to(ROOT)} imports {name}"
        assert not within(name, "lightning"), f"{where}: only pytorch_lightning"
        assert not within(name, "tests"), where
        if room != "experiments":
            assert not within(name, "experiments"), where
        if within(name, "wandb"):
            assert room in ("callbacks", "experiments"), where
        if room == "lightning_modules":
            assert not any(within(name, other) for other in ("datamodules", "callbacks")), where
        if room == "datamodules":
            assert not any(within(name, other) for other in ("lightning_modules", "callbacks")), where
        if room == "callbacks":
            assert not within(name, "datamodules"), where
            if within(name, "lightning_modules"):
                assert within(name, "lightning_modules.common.metrics") or name == "lightning_modules.common.metrics", (
                    where
                )
        if room == "lightning_modules" and path.name in PURE:
            assert not any(within(name, heavy) for heavy in ("pytorch_lightning", "wandb", "omegaconf")), where
        if room == "lightning_modules" and len(inner) == 2 and inner[0] != "common":
            paper = f"lightning_modules.{inner[0]}"
            shared = ("base", "common", "published")
            allowed = (paper, *(f"lightning_modules.{name}" for name in shared))
            if within(name, "lightning_modules"):
                assert any(within(name, package) for package in allowed), f"{where}: another paper's folder"


def test_the_walk_sees_the_rooms() -> None:
    seen = {path.relative_to(ROOT).parts[0] for path in FILES}
    assert seen == set(ROOMS)
