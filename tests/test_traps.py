"""Traps of the libraries in use that a rule avoids; those with a mechanism are tested where it lies.

Threads that spin: test_run.py; augmentation that repeats itself, arguments that are ignored: test_transforms.py,
test_base.py; checkpoints of plain types: test_run.py, test_base.py; videos decoded in order: test_disfa.py.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for room in ("lightning_modules", "datamodules", "callbacks", "experiments")
    for path in (ROOT / room).rglob("*.py")
]


def trees(paths: list[Path]) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in paths}


def test_no_test_starts_ddp_in_its_own_process() -> None:
    """strategy="ddp" starts the whole pytest command again as the second rank; "ddp_fork" and scripts do not."""
    for path, tree in trees(list((ROOT / "tests").rglob("*.py"))).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "strategy" and isinstance(node.value, ast.Constant):
                assert node.value.value != "ddp", f"{path}:{node.value.lineno}"


def test_videos_are_never_sought() -> None:
    """Seeking by frame number returns wrong frames for some codecs in every decoder."""
    for path, tree in trees(SOURCES).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("VideoCapture", "CAP_PROP_POS_FRAMES"), f"{path}:{node.lineno}"
                assert node.attr != "seek", f"{path}:{node.lineno}"


def test_nothing_foreign_is_unpickled() -> None:
    """Files of others are data: torch.load reads weights only, and nothing reads pickles."""
    for path, tree in trees(SOURCES).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                where, function = f"{path}:{node.lineno}", ast.unparse(node.func)
                settings = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert not function.startswith("pickle."), where
                assert settings.get("allow_pickle", "False") == "False", where
                if function == "torch.load" or function.endswith("load_from_checkpoint"):
                    assert settings.get("weights_only") == "True", where
