"""What must survive a crash: the tables, every query on them, and the artifact bytes."""
