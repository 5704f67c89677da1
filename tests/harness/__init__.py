"""Real Synapse servers on loopback, and real incidents between them.

Import from the modules in here. This file imports none of them, because Synapse itself loads
`tests.harness.sabotage`, in environments that lack what the tests need.
"""
