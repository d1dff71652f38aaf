"""How every command ends: its own exit code, or two lines that say what is wrong and what to do."""

import sys
from collections.abc import Callable
from typing import NoReturn


def exit_with(command: Callable[[], int]) -> NoReturn:
    """Exit with the code of ``command``; a user error (an exception with a ``remedy``) prints two lines and exits 2."""
    try:
        code = command()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = 130
    except SystemExit as stopped:
        if stopped.code is not None:
            raise
        # Lightning leaves so after SIGTERM, which would read as success.
        print("terminated; the same command goes on from here", file=sys.stderr)
        code = 143
    except Exception as error:
        remedy = getattr(error, "remedy", None)
        if remedy is None:
            raise
        print(f"error: {error}\nremedy: {remedy}", file=sys.stderr)
        code = 2
    sys.exit(code)


def first_line(command: object) -> str:
    """First line of a docstring: what a list of commands says of each."""
    return (command.__doc__ or "").partition("\n")[0]
