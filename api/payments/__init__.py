"""The payments service: HTTP in, PostgreSQL underneath, nothing between.

A request visits `app` (the route table), `handlers` (what a route means) and `queries` (the SQL).
"""

__version__ = "0.1.0"
