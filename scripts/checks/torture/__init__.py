"""Kills, signals, full disks, absurd sizes, bad environments and code in data, counted.

python -m diffplan.scripts.checks.torture             what CI runs, under a minute
python -m diffplan.scripts.checks.torture --large     all of it (`make torture`)
"""
