"""Why a row of a table cannot be predicted."""


class SkippedRowError(Exception):
    """This row has no prediction; the message is the reason, worded alike for rows of the same kind."""
