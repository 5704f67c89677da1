"""A Synapse module that repairs rooms in which events were wrongly rejected."""

from __future__ import annotations

from synapse_rejection_repair.module import RejectionRepair

__version__ = "0.1.0"

__all__ = ["RejectionRepair", "__version__"]
