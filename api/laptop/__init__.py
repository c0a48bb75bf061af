"""The service on a laptop: a durable PostgreSQL from a wheel, and the server beside it.

`make run` is `python -m laptop`; the tests use `laptop.postgres` alone. The package is for
development only, and never part of what is deployed.
"""
