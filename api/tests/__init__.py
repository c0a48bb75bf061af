"""The service's tests: a file a module or endpoint, a function a situation."""
