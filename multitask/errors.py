"""What a user can mend."""


class UserError(Exception):
    """A mistake in what the user gave. The command line prints it as one line and exits with status 2.

    The message names the thing, its value, where it came from, and what would be valid.
    """
