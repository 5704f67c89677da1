"""The endpoints: authenticate, parse, call, serialise."""
