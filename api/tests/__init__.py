"""The service's tests: a file a module or endpoint, a function a situation."""

# A test waits for an event, this long at most: also on a machine that has much else to do.
PATIENCE_SECONDS = 60
