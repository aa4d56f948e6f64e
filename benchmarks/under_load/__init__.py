"""The pieces of `make load`: the service, its clients, what it is measured against, and the bars."""
