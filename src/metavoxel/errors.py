"""The one error, and the one warning, that a user is meant to read."""


class MetaVoxelError(Exception):
    """Something the user can mend: one sentence saying what is wrong, where, and what to do.

    The command line prints the sentence alone and exits with status 2; everything else that is
    raised is a bug of ours and keeps its traceback.
    """


class MetaVoxelWarning(UserWarning):
    """Something the user should know of an answer; one sentence, as of an error."""
