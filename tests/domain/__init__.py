"""The decisions, on DAGs drawn as literals: no server, no database."""
