"""The incident between two real servers on this machine, and its repair: `python -m demo`."""
