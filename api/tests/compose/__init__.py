"""What an engineer types first: compose.yaml, started."""
