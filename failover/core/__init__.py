"""The decisions: pure functions over frozen data.

Nothing in this package reads a clock, a file, a socket or a random number, starts a thread or logs. `now` arrives in the
observation; reasons leave as data in the plan. tests/house/ enforces it.
"""
