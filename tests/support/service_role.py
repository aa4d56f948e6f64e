"""Services under test run as they are shipped: as a role that owns no table."""

from sqlalchemy.engine import make_url

from expunge.embedded.servers import SERVICE_ROLE


def as_service(url: str) -> str:
    """The URL of the tests' superuser, for the service's role; any other URL as it is."""
    parsed = make_url(url)
    if parsed.username != "postgres":
        return url
    return parsed.set(username=SERVICE_ROLE, password="role").render_as_string(hide_password=False)
