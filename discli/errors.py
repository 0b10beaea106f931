"""The one exception that users are meant to see."""


class DiscliError(Exception):
    """What a user did wrong, and what to do about it: one line each.

    The command line prints ``message`` and ``hint`` and exits with ``status`` (2 unless said
    otherwise); a traceback appears only with ``--debug``.
    """

    def __init__(self, message: str, hint: str = "", *, status: int = 2) -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint
        self.status = status
