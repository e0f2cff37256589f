"""The demo: a year of flights from New York, stored, killed, recovered and read back, with every step checked.

Run it with ``python -m warpstore.demo`` or ``make demo``. It needs the extra ``[demo]``.
"""
