"""The one error that is for the user to mend."""


class UserError(Exception):
    """A mistake in a config, file or command. Its message is one line that names the field or file and the mend.

    The command line prints the message alone and exits with status 2.
    """
