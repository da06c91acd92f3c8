"""Why a row of a table cannot be predicted."""


class SkippedRowError(Exception):
    """This row has no prediction. The message is the reason, in the same words for rows of the same kind."""
