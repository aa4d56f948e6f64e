"""Rate limits: one token bucket for each tenant's reads and writes, and one for each address without a key.

The buckets are in Redis, so that all API processes share them. A process takes one second's worth of tokens
at a time and spends them locally, so most requests need no round trip. When Redis does not answer, requests
are let through uncounted.

(The `limits` library has windows instead of token buckets, and needs a second round trip for the headers.)
"""

import ipaddress
import math
import time
import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.types import Scope

from expunge.api.metrics import Metrics
from expunge.api.problems import Problem
from expunge.store.settings import Settings

log = structlog.get_logger("api")
REDIS_TIMEOUT = 0.25  # seconds that one request waits for Redis
REDIS_RETRY = 5.0  # seconds without a further try after Redis did not answer
MAX_BUCKETS = 10_000  # buckets that a process remembers; forgetting one costs its tenant a second's tokens

# GCRA: a token bucket stored as one number, the time at which it will be full again. Takes up to ARGV[3]
# tokens from a bucket of size ARGV[1] that gains one token every ARGV[2] seconds. Returns the tokens taken,
# the tokens left, and the seconds until the next token.
TAKE_TOKENS = """
local size, every, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local free = math.floor((now + size * every - full) / every + 0.000001)
local taken = math.min(wanted, free)
if taken < 1 then return {0, 0, tostring(full - now - (size - 1) * every)} end
full = full + taken * every
redis.call('SET', KEYS[1], string.format('%.6f', full), 'PX', math.ceil((full - now) * 1000))
return {taken, free - taken, '0'}
"""


def rate_limit_fields(name: str, quota: int, window: int | None, left: int, reset: int) -> dict[str, str]:
    """The RateLimit header fields of draft-ietf-httpapi-ratelimit-headers.

    `window` and `reset` are seconds: the length of the limit's window, and the time until `left` changes.
    """
    per_window = "" if window is None else f";w={window}"
    return {
        "RateLimit-Policy": f'"{name}";q={quota}{per_window}',
        "RateLimit": f'"{name}";r={left};t={reset}',
    }


class Policy(NamedTuple):
    """A limit of requests per minute; after a quiet minute, all of them may come at once."""

    name: str
    per_minute: int

    @property
    def block_size(self) -> int:
        """Tokens that a process takes from Redis at a time."""
        return max(1, self.per_minute // 60)

    def headers(self, left: int, wait: float = 0.0) -> list[tuple[bytes, bytes]]:
        """The RateLimit fields: reset is when the bucket is full, or, if empty, when its next token comes."""
        reset = math.ceil(wait or (self.per_minute - left) * 60 / self.per_minute)
        fields = rate_limit_fields(self.name, self.per_minute, 60, left, reset)
        return [(name.lower().encode(), value.encode()) for name, value in fields.items()]


@dataclass
class Block:
    """A process's share of a bucket: tokens to spend, tokens left in Redis, and until when it is empty."""

    tokens: int = 0
    left: int = 0
    empty_until: float = 0.0


class RateLimiter:
    """The app's rate limits; connects to Redis when first used."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.enabled, self.metrics = settings.rate_limits, metrics
        self.url = settings.redis_client_url
        self.reads = Policy("reads", settings.reads_per_minute)
        self.writes = Policy("writes", settings.writes_per_minute)
        self.strangers = Policy("strangers", settings.strangers_per_minute)
        self.blocks: dict[str, Block] = {}
        self.redis_down_until = 0.0
        self.redis: Any = None

    async def limit_tenant(self, scope: Scope, tenant_id: uuid.UUID) -> None:
        """Count a request with a valid key; all keys of a tenant share its buckets.

        Raises: Problem `too_many_requests`.
        """
        policy = self.reads if scope["method"] == "GET" else self.writes
        await self.spend_token(scope, policy, str(tenant_id))

    async def limit_address(self, scope: Scope) -> Block | None:
        """Count a request without a key, or with one not looked up yet; returns the block it was taken from.

        Raises: Problem `too_many_requests`.
        """
        address = (scope.get("client") or ("", 0))[0]
        return await self.spend_token(scope, self.strangers, network_of(address))

    async def spend_token(self, scope: Scope, policy: Policy, owner: str) -> Block | None:
        """Take one token for a request, and note the RateLimit headers of its answer.

        Returns the block, or None where requests are not counted.
        Raises: Problem `too_many_requests`.
        """
        if not self.enabled:
            return None
        now = time.monotonic()
        block = await self.filled_block(policy, f"expunge:rate:{policy.name}:{owner}")
        if block is None:
            return None
        if block.tokens < 1:
            wait = max(0.001, block.empty_until - now)
            self.metrics.rate_limited.labels(policy.name).inc()
            scope["state"]["ratelimit"] = policy.headers(0, wait)
            detail = (
                f"The rate limit '{policy.name}' of {policy.per_minute} requests per minute is used up: wait"
                f" {math.ceil(wait)} s, and send requests less often."
            )
            raise Problem("too_many_requests", detail, headers={"Retry-After": str(math.ceil(wait))})
        block.tokens -= 1
        scope["state"]["ratelimit"] = policy.headers(block.left + block.tokens)
        return block

    async def filled_block(self, policy: Policy, name: str) -> Block | None:
        """The block of a bucket, filled from Redis if it is empty; None when Redis does not answer."""
        now, block = time.monotonic(), self.blocks.get(name)
        if block is not None and (block.tokens > 0 or now < block.empty_until):
            return block
        if now < self.redis_down_until:
            return None
        try:
            taken, left, wait = await self.take_tokens(name, policy)
        except (RedisError, OSError) as error:
            self.redis_down_until = time.monotonic() + REDIS_RETRY
            self.metrics.rate_limit_failures.inc()
            log.warning("rate_limits_not_enforced", error=type(error).__name__, seconds=REDIS_RETRY)
            return None
        if name not in self.blocks and len(self.blocks) >= MAX_BUCKETS:
            self.blocks.clear()
        # Another request may have filled the block while this one waited, so add to what is there.
        block = self.blocks.setdefault(name, Block())
        block.tokens += int(taken)
        block.left = int(left)
        block.empty_until = now + float(wait)
        return block

    async def take_tokens(self, name: str, policy: Policy) -> tuple[int, int, bytes]:
        """Take a block of tokens from Redis: (taken, left, seconds until the next)."""
        self.connect()
        found: tuple[int, int, bytes] = await self.script(
            keys=[name], args=[policy.per_minute, 60 / policy.per_minute, policy.block_size]
        )
        return found

    def connect(self) -> None:
        if self.redis is None:
            no_retry = Retry(NoBackoff(), 0)
            self.redis = Redis.from_url(
                self.url, retry=no_retry, socket_timeout=REDIS_TIMEOUT, socket_connect_timeout=REDIS_TIMEOUT
            )
            self.script = self.redis.register_script(TAKE_TOKENS)

    async def ping(self) -> str:
        """`ok` or `down`. Without Redis the service is slower to start a job, but not down."""
        self.connect()
        try:
            await self.redis.ping()
        except (RedisError, OSError):
            return "down"
        return "ok"

    async def close(self) -> None:
        if self.redis is not None:
            await self.redis.aclose()


def network_of(address: str) -> str:
    """The network that counts as one client: a /64 for IPv6, the address itself otherwise."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
