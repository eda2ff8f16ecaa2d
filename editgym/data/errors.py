"""The error that every loader raises; it stands alone so that reading text files needs no torch."""


class DataError(ValueError):
    """A data set that is missing or malformed; the message says where it was looked for and what
    would be right.
    """
