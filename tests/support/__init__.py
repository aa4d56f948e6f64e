"""What the tests stand on: services, workers, bad input, and what reads results."""
