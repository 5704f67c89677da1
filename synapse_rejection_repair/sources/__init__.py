"""Old homeservers' databases: opened read-only, believed in nothing, knowing no Synapse."""
