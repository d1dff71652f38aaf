"""What goes wrong with a model's settings or weights, said so that the user can mend it."""


class ModelError(ValueError):
    """A fault in a model argument or a checkpoint.

    Args:
        what: One line that names the argument, key or file at fault.
        remedy: One line that says what to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy
