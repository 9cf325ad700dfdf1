"""The one error type for what a user can fix."""


class UserError(Exception):
    """A mistake in input or settings. The message says what is wrong, where, and what to do.

    The command line prints it without a traceback; every other exception keeps its traceback.
    """
