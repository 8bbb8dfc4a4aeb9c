"""The command line behind ``./fraudguard``: arguments, progress and printing; every decision is made in the rooms below.

A command is a module with ``register(commands)``, listed in ``cli.__main__``.  Such a module imports the rooms inside its handlers,
so that ``--help`` works, and works fast, before any package is installed.
"""
