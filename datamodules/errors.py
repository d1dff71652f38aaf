"""What goes wrong with data, said so that the user can mend it."""


class DataError(ValueError):
    """A fault in a raw dataset, a store or a data setting.

    Args:
        what: One line that names the file, key, subject or frame at fault.
        remedy: One line that says what to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["DataError"], tuple[str, str]]:
        # Worker processes send exceptions by pickle, which would call __init__ with one argument.
        return type(self), (str(self), self.remedy)
