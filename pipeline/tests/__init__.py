"""Tests of what the workflows call, and of the workflows."""
