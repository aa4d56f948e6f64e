"""The commands of `expunge` that talk to a service, by what they work on; cli.py lists them."""
