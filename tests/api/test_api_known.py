"""What a process remembers of keys, and what it costs to look at a job."""
