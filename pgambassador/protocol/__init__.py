"""Conversations without I/O: startup and login, settings, the reply ledger, cancel keys."""
