"""`expunge recovery-key`, `key-reads` and `revoke-key`: what a hide job keeps secret."""

from pathlib import Path

from expunge.client import views
from expunge.client.options import IntoFolder, JobId, Json, Url
from expunge.client.terminal import out, print_json, print_plain, service


def recovery_key(id_: JobId, folder: IntoFolder = Path("."), url: Url = None, as_json: Json = False) -> None:
    """Fetch a hide job's recovery key (mode 0600); needs the scope keys:read, and the read is recorded."""
    with service(url) as client:
        (path,) = client.download(client.recovery_key(id_), folder)
    if as_json:
        print_json(str(path))
    else:
        print_plain(out, str(path))


def key_reads(id_: JobId, url: Url = None, as_json: Json = False) -> None:
    """List who read a hide job's recovery key, newest first; needs the scope admin."""
    with service(url) as client:
        reads = list(client.reads(client.recovery_key(id_)))
    if as_json:
        print_json(reads)
    else:
        out.print(views.reads_table(reads))


def revoke_key(id_: JobId, url: Url = None, as_json: Json = False) -> None:
    """Delete a hide job's recovery key for good; needs the scope admin."""
    with service(url) as client:
        key = client.revoke(client.recovery_key(id_))
    if as_json:
        print_json(key)
    else:
        out.print(f"revoked at {key.revoked_at:%Y-%m-%d %H:%M:%S} UTC", highlight=False)
