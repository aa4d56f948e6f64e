"""`python -m expunge.store.restore DIR`: a backup (store/backup.py) into an empty database and an empty
artifact store.
"""

from expunge.store.backup import run

if __name__ == "__main__":
    run("restore", "Restore a backup into an empty EXPUNGE_DATABASE_URL and an empty EXPUNGE_ARTIFACTS_URL.")
