"""Token buckets, one for each API key's reads and writes and one for each address without a key; in Redis, so
that all API processes share them.

A process takes a second's worth of tokens at a time and spends them without asking again, so a request costs
a fraction of a round trip. Redis only guards: when it does not answer, everything is let through. (The
`limits` library has windows, no token buckets, and asks once to count and once more for the headers.)
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
PATIENCE = 0.25  # seconds that one request waits for Redis
REST = 5.0  # seconds for which nobody asks a Redis that did not answer
MOST = 10_000  # buckets that a process remembers; to forget one costs its key a second's worth at most

# GCRA, a token bucket that is one number: the moment at which the bucket will be full again. Takes up to
# ARGV[3] tokens of a bucket of ARGV[1] that one token joins every ARGV[2] seconds; gives how many it took,
# how many are left, and the seconds until there is one.
TAKE = """
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


class Policy(NamedTuple):
    """So many requests a minute; as many at once after a quiet minute."""

    name: str
    a_minute: int

    @property
    def block(self) -> int:
        """Tokens that a process takes at a time."""
        return max(1, self.a_minute // 60)

    def headers(self, left: int, wait: float = 0.0) -> list[tuple[bytes, bytes]]:
        """The RateLimit fields of the IETF's draft; `t` is when the bucket is full again, or where it is
        empty when the next token comes.
        """
        seconds = math.ceil(wait or (self.a_minute - left) * 60 / self.a_minute)
        policy, state = f'"{self.name}";q={self.a_minute};w=60', f'"{self.name}";r={left};t={seconds}'
        return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", state.encode())]


@dataclass
class Block:
    """What this process holds of a bucket: tokens to spend, how many Redis had left, and until when there is
    none to be had.
    """

    tokens: int = 0
    left: int = 0
    empty_until: float = 0.0


class Limiter:
    """One per app; connects when it is first used."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.on, self.metrics = settings.rate_limits, metrics
        self.url = settings.redis_client_url
        self.reads, self.writes = (
            Policy("reads", settings.reads_per_minute),
            Policy("writes", settings.writes_per_minute),
        )
        self.strangers = Policy("strangers", settings.strangers_per_minute)
        self.blocks: dict[str, Block] = {}
        self.away_until = 0.0
        self.redis: Any = None

    async def known(self, scope: Scope, tenant_id: uuid.UUID) -> None:
        """A request with a valid key: all keys of a tenant share its buckets. Problem: too_many_requests."""
        await self.admit(scope, self.reads if scope["method"] == "GET" else self.writes, str(tenant_id))

    async def stranger(self, scope: Scope) -> Block | None:
        """A request without one, or of one that is yet to be looked up; where it was spent from.

        Problem: too_many_requests.
        """
        return await self.admit(scope, self.strangers, network((scope.get("client") or ("", 0))[0]))

    async def admit(self, scope: Scope, policy: Policy, whose: str) -> Block | None:
        if not self.on:
            return None
        now, block = time.monotonic(), await self.held(policy, f"expunge:rate:{policy.name}:{whose}")
        if block is None:
            return None
        if block.tokens < 1:
            wait = max(0.001, block.empty_until - now)
            self.metrics.limited.labels(policy.name).inc()
            scope["state"]["ratelimit"] = policy.headers(0, wait)
            text = (
                f"More than {policy.a_minute} {policy.name} a minute: wait {math.ceil(wait)} s, and ask less"
                " often."
            )
            raise Problem("too_many_requests", text, headers={"Retry-After": str(math.ceil(wait))})
        block.tokens -= 1
        scope["state"]["ratelimit"] = policy.headers(block.left + block.tokens)
        return block

    async def held(self, policy: Policy, name: str) -> Block | None:
        """The block that a request may spend from, filled from Redis when it is empty; None when Redis
        does not answer.
        """
        now, block = time.monotonic(), self.blocks.get(name)
        if block is not None and (block.tokens > 0 or now < block.empty_until):
            return block
        if now < self.away_until:
            return None
        try:
            taken, left, wait = await self.take(name, policy)
        except (RedisError, OSError) as error:
            self.away_until = time.monotonic() + REST
            self.metrics.unchecked.inc()
            log.warning("rate_limits_unchecked", error=type(error).__name__, seconds=REST)
            return None
        if name not in self.blocks and len(self.blocks) >= MOST:
            self.blocks.clear()
        block = self.blocks.setdefault(name, Block())  # others may have filled it while this one waited
        block.tokens, block.left, block.empty_until = block.tokens + int(taken), int(left), now + float(wait)
        return block

    async def take(self, name: str, policy: Policy) -> tuple[int, int, bytes]:
        self.connect()
        found: tuple[int, int, bytes] = await self.script(
            keys=[name], args=[policy.a_minute, 60 / policy.a_minute, policy.block]
        )
        return found

    def connect(self) -> None:
        if self.redis is None:
            once = Retry(NoBackoff(), 0)
            self.redis = Redis.from_url(
                self.url, retry=once, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE
            )
            self.script = self.redis.register_script(TAKE)

    async def ping(self) -> str:
        """Redis only counts and rings the bell: without it the service is slower to start a job, not down."""
        self.connect()
        try:
            await self.redis.ping()
        except (RedisError, OSError):
            return "down"
        return "ok"

    async def close(self) -> None:
        if self.redis is not None:
            await self.redis.aclose()


def network(address: str) -> str:
    """An IPv6 client owns a whole /64 at least; anything else is itself."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
