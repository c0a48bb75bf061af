"""What has an end: the import of the old system's payments, and their comparison with it."""
