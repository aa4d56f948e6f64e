"""`python -m expunge.store.restore DIR`: restore a backup (store/backup.py) into an empty deployment."""

from expunge.store.backup import run

if __name__ == "__main__":
    run("restore", "Restore a backup into an empty database and an empty artifact store.")
