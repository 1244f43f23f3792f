"""The one exception for mistakes that the user can put right."""


class DsuError(ValueError):
    """A bad value, file or combination: the message says which, where, what to do.

    The ``dsu`` command prints it as one line without a traceback.

    Example
    -------
    >>> raise DsuError("layer 13 of an encoder with 12 layers: take 1 to 12")
    Traceback (most recent call last):
    ...
    speechbrain_dsu.utils.errors.DsuError: layer 13 of an encoder with 12 ...
    """
