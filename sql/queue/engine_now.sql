-- The engine's clock. Tests move it with `set howdah.now = '…'`, so that no test sleeps to see an hour pass.
create function engine_now() returns timestamptz
language sql volatile
as $$
    select coalesce(nullif(current_setting('howdah.now', true), '')::timestamptz, clock_timestamp())
$$;
