"""Chaos: load on real servers, one hurt, and a ledger of what became of every accepted request."""
