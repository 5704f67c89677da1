"""The only layer that knows Synapse's insides; `adapter.audit` names every symbol it touches."""
