"""The import of the old system's payments and their comparison: deleted with the old system."""
