"""The only room that knows Synapse's insides; `adapter.audit` names every symbol it touches."""
