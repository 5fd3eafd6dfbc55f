"""The process beside a database that alone may let it accept writes, and that alone starts it."""
