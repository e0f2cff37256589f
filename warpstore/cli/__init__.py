"""The command line ``warpstore``: it looks at stores and looks after them, without the record classes.

Only what makes records, or Arrow's columns of them, is told their classes, by ``--models``.

Every command is a module, and a line in `warpstore.cli.app`. With ``--json`` a command prints one JSON object on
stdout and nothing else there; errors are one line on stderr. Exit codes, for all commands:

==  ====================================================================================================
0   done, and nothing is wrong
1   a problem was found (damage, an absent key, a failed check of the demo), or the operation failed
2   the command line is wrong: an unknown option or table, a key that is none, an extra that is missing
3   the store cannot be opened: it is in use, it is no store, or a newer warpstore wrote it
==  ====================================================================================================
"""

from warpstore.cli.entry import main

__all__ = ["main"]
