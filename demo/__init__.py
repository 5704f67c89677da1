"""An incident between two real servers and its repair, and an import: `python -m demo`."""
