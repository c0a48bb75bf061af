"""What all tests here share: a run that leaves anything behind fails."""

pytest_plugins = ["leaks"]
