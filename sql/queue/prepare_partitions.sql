-- Makes the day partitions of history and checkpoints from today to p_days ahead. Called by maintenance, any number
-- of times. A partition is built apart and attached, so that it never waits behind a long read of its parent.
create function prepare_partitions(p_days integer default 7) returns table (created text)
language plpgsql
as $$
declare
    v_day date;
    v_name text;
begin
    -- One preparer at a time; the others would only collide on names.
    perform pg_advisory_xact_lock(hashtextextended(current_schema() || '.partitions', 0));
    for v_day in select d::date from generate_series(engine_now() at time zone 'utc', (engine_now() at time zone 'utc')
                                                     + make_interval(days => p_days), interval '1 day') as d loop
        v_name := 'run_history_' || to_char(v_day, 'YYYYMMDD');
        if to_regclass(v_name) is null then
            execute format('create table %I (like run_history including defaults including constraints)', v_name);
            execute format('alter table run_history attach partition %I for values from (%L) to (%L)', v_name,
                           v_day::timestamp at time zone 'utc', (v_day + 1)::timestamp at time zone 'utc');
            created := v_name;
            return next;
        end if;
        v_name := 'checkpoint_' || to_char(v_day, 'YYYYMMDD');
        if to_regclass(v_name) is null then
            execute format('create table %I (like checkpoint including defaults including constraints)', v_name);
            execute format('alter table checkpoint attach partition %I for values from (%s) to (%s)', v_name,
                           first_run_id(v_day), first_run_id(v_day + 1));
            created := v_name;
            return next;
        end if;
    end loop;
end
$$;
