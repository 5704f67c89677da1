"""The decisions: DAG, cascades, verdicts and plans, as pure values without I/O."""
