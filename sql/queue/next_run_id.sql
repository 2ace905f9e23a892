-- 43 bits of Unix milliseconds (until the year 2248), then 20 bits of sequence: a million ids a millisecond.
create function next_run_id() returns bigint
language sql volatile
as $$
    select ((extract(epoch from clock_timestamp()) * 1000)::bigint << 20) | nextval('run_id_seq')
$$;
