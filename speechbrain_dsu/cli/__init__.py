"""The ``dsu`` command: a thin skin of arguments and printing over the library."""
