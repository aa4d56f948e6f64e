# The API, the dispatcher and reaper, and migrations: no torch, no GPU.
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY api api
COPY client client
COPY core core
COPY embedded embedded
COPY migrations migrations
COPY store store
COPY worker worker
COPY src src
COPY requirements/api.lock requirements/
# api.lock is what expunge[service] needs, without torch. Everything in it goes by hash.
RUN python -m venv /opt/expunge \
 && /opt/expunge/bin/pip install --require-hashes --no-deps -r requirements/api.lock \
 && /opt/expunge/bin/pip install --no-deps '.[service]'

FROM python:3.11.14-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/expunge --create-home expunge \
 && install -d -o expunge -g expunge /var/lib/expunge/artifacts /var/lib/expunge/tmp
COPY --from=build /opt/expunge /opt/expunge
ENV PATH=/opt/expunge/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TMPDIR=/var/lib/expunge/tmp
USER expunge
WORKDIR /var/lib/expunge
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["python", "-m", "expunge.api", "--host", "0.0.0.0"]
