"""What commands say on the terminal: how they end, and two lines for what is wrong and what to do."""

import errno
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn, get_args, get_origin, get_type_hints


def exit_with(command: Callable[[], int], goes_on: bool = True) -> NoReturn:
    """Exit with the code of ``command``; a user error (an exception with a ``remedy``) prints two lines and exits 2.

    Args:
        command: What the program does.
        goes_on: Whether a second start continues what the first one left.
    """
    again = "the same command goes on from here" if goes_on else "the same command begins anew"
    try:
        code = command()
    except KeyboardInterrupt:
        print(f"interrupted; {again}", file=sys.stderr)
        code = 130
    except SystemExit as stopped:
        if stopped.code is not None:
            raise
        # Lightning leaves so after SIGTERM, which would read as success.
        print(f"terminated; {again}", file=sys.stderr)
        code = 143
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"error: the disk is full{where}\nremedy: make room; {again}", file=sys.stderr)
        code = 1
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


def innermost(error: BaseException) -> str:
    """The dotted key and the cause in a parser error, whose text is an indented tree of attempts."""
    noise = ("Given value", "Subtypes", "Errors:", "Expected a <class 'NoneType'>", "Does not validate", "Problem with")
    keys: list[str] = []
    causes: list[str] = []
    given = ""
    for line in (line.strip(" -") for line in str(error).splitlines()):
        if found := re.match(r'Parser key "([^"]+)":?(.*)', line):
            keys.append(found[1])
            line = found[2].strip()
        elif found := re.match(r"Option '([^']+)' is not accepted", line):
            keys.append(found[1])
            line = "no such argument"
        if line.startswith("Given value:"):
            given = line.removeprefix("Given value:").strip()
        if line and not line.startswith(noise):
            causes.append(re.sub(r"<class '([^']+)'>|typing\.", r"\1", line))
    cause = causes[0] if causes else ""
    if cause.startswith("Expected") and "Got value" not in cause:
        cause += f". Got value: {given}"
    return ": ".join([".".join(keys), cause] if keys else [cause])


def lists_as_json(argv: list[str], commands: Mapping[str, Callable[..., object]]) -> list[str]:
    """The words, with lists as JSON: ``05_1,14_0`` as it stands would be one text, and ``[05_1]`` the number 41.

    Args:
        argv: A command, then its options.
        commands: What each command calls; its signature says which options are lists.
    """
    called = commands.get(argv[0]) if argv else None
    hints = get_type_hints(called.__init__ if inspect.isclass(called) else called) if called else {}
    lists = {f"--{name}": get_args(hint)[0] for name, hint in hints.items() if get_origin(hint) is list}
    result, words = [], iter(argv)
    for word in words:
        option, equals, text = word.partition("=")
        if option in lists:
            items = [item.strip(" \"'") for item in (text if equals else next(words, "")).strip("[]").split(",")]
            values = json.dumps(items) if lists[option] is str else f"[{','.join(items)}]"
            word = f"{option}={values}"
        result.append(word)
    return result
