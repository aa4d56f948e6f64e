"""`python -m expunge.api`: the API under uvicorn, as it should face a network. `--help` lists the options."""

import argparse

import uvicorn

from expunge.api import server


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m expunge.api", description="Serve the API; its settings are environment variables."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--root-path",
        default="",
        metavar="/PREFIX",
        help="the prefix below which a reverse proxy serves the API",
    )
    parser.add_argument(
        "--forwarded-allow-ips",
        metavar="LIST",
        help="proxies whose X-Forwarded-* count; default: FORWARDED_ALLOW_IPS, else 127.0.0.1",
    )
    given = parser.parse_args()
    uvicorn.Server(server.config("expunge.api.app:create_app", factory=True, **vars(given))).run()


if __name__ == "__main__":
    main()
