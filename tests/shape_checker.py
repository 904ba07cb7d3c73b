"""The run-time checker of the library's signatures (used by conftest.py)."""

from beartype import BeartypeConf, beartype

# An int where a float is expected is right in Python's type system, and mypy accepts it too.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
