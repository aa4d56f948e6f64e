"""HTTP in, HTTP out: thin routes over the store. Imports no torch."""
