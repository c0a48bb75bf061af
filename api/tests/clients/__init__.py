"""Clients that generators make of openapi.yaml: they compile, and work with the real service."""
