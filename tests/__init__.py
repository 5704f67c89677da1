"""Tests, and the harness of real servers that the demo and the benchmark use too."""
