"""What a user can mend."""


class UserError(Exception):
    """A mistake in what the user gave. The command line prints it as one line and exits with status 2.

    The message names the thing, its value, where it came from, and what would be valid. White space is
    folded, so that it stays one line whatever was given.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class StorageError(UserError):
    """A storage refuses, has no room, or has not answered for so long that it was given up.

    The message says what could not be done, where, the last error, and what to do.
    """
