"""The tables that read queries use, as SQLAlchemy Core sees them; `sql/*/tables.sql` is the source, a test compares.

Columns that no read query uses are mirrored too, so that the comparison is plain equality.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData()


def _timestamp(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


tenant = Table(
    "tenant",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("weight", Double, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("event_days", Integer),
    _timestamp("created_at"),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant_id", Text),
    Column("name", Text, nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False),
    _timestamp("created_at"),
    _timestamp("revoked_at", nullable=True),
)

queue = Table(
    "queue",
    metadata,
    Column("name", Text, primary_key=True),
    Column("paused", Boolean, nullable=False),
    Column("max_running", Integer),
    Column("max_running_per_tenant", Integer),
    Column("starts_per_period", Integer),
    Column("period", Interval),
    Column("max_queued", Integer),
    Column("max_queued_per_tenant", Integer),
    _timestamp("period_started_at", nullable=True),
    Column("period_starts", Integer, nullable=False),
    _timestamp("created_at"),
)

task = Table(
    "task",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("args_schema", JSONB, nullable=False),
    Column("description", Text, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("newest", Text),
    _timestamp("updated_at"),
)

run = Table(
    "run",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("fresh", Boolean, nullable=False),
    Column("suspect", Boolean, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("deaths_alone", Integer, nullable=False),
    Column("session_id", Text),
    Column("order_no", BigInteger),
    Column("on_failure", Text),
    Column("unique_key", Text),
    Column("args", JSONB, nullable=False),
    _timestamp("run_at", nullable=True),
    _timestamp("deadline", nullable=True),
    Column("retry", JSONB),
    Column("worker_id", BigInteger),
    _timestamp("claimed_at", nullable=True),
    Column("error", JSONB),
    Column("parent_id", BigInteger),
    Column("parent_step", Text),
    Column("traceparent", Text),
    Column("awaits", JSONB),
)

schedule = Table(
    "schedule",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("args", JSONB, nullable=False),
    Column("queue", Text),
    Column("priority", Integer, nullable=False),
    Column("unique_key", Text),
    Column("session_id", Text),
    Column("on_failure", Text),
    Column("cron", Text, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("missed", Text, nullable=False),
    Column("periodic_id", Text),
    Column("paused", Boolean, nullable=False),
    _timestamp("counts_from"),
    _timestamp("next_at", nullable=True),
    _timestamp("last_at", nullable=True),
    Column("last_run_id", BigInteger),
    Column("error", Text),
    _timestamp("created_at"),
    _timestamp("updated_at"),
)

run_history = Table(
    "run_history",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("session_id", Text),
    Column("args", JSONB, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("deaths_alone", Integer, nullable=False),
    Column("order_no", BigInteger),
    Column("on_failure", Text),
    Column("retry", JSONB),
    Column("worker_id", BigInteger),
    _timestamp("claimed_at", nullable=True),
    Column("finished_at", DateTime(timezone=True), primary_key=True),
    Column("output", JSONB),
    Column("error", JSONB),
    Column("parent_id", BigInteger),
    Column("parent_step", Text),
    Column("traceparent", Text),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("run_id", BigInteger, primary_key=True),
    Column("step", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("output", JSONB),
    _timestamp("started_at"),
    _timestamp("finished_at"),
    Column("after", Text),
    Column("repeats", Integer, nullable=False),
)

signal = Table(
    "signal",
    metadata,
    Column("run_id", BigInteger, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("no", Integer, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("key", Text),
    _timestamp("sent_at"),
)

session = Table(
    "session",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    _timestamp("first_at"),
    _timestamp("last_at"),
    _timestamp("created_at"),
    _timestamp("closed_at", nullable=True),
    Column("event_window", BigInteger),
    Column("acked_seq", BigInteger),
)

event = Table(
    "event",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("type", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    Column("key", Text),
    Column("run_id", BigInteger),
    Column("created_at", DateTime(timezone=True), primary_key=True),
    Column("source", Text),
    Column("subject", Text),
    Column("traceparent", Text),
)

collection = Table(
    "collection",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("embedding_model", Text, nullable=False),
    Column("dimensions", Integer, nullable=False),
    _timestamp("created_at"),
)

document = Table(
    "document",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("collection", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("run_id", BigInteger),
    _timestamp("created_at"),
)

model = Table(
    "model",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("context_window", Integer, nullable=False),
    Column("max_output_tokens", Integer, nullable=False),
    Column("input_price", Numeric(12, 6)),
    Column("output_price", Numeric(12, 6)),
    Column("strengths", ARRAY(Text), nullable=False),
    Column("quality", SmallInteger, nullable=False),
    Column("enabled", Boolean, nullable=False),
    _timestamp("updated_at"),
)

model_call = Table(
    "model_call",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("run_id", BigInteger),
    Column("step", Text),
    Column("model", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cost", Numeric(18, 9)),
    Column("latency_ms", Double, nullable=False),
    Column("error", Text),
    _timestamp("created_at"),
)
