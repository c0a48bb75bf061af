"""A real Prometheus and Alertmanager watch the service while it is well, and while it is not."""
