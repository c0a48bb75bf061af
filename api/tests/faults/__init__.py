"""Servers and PostgreSQL are killed, cut off and starved while callers keep count."""
