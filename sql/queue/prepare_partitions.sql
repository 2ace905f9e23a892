-- Makes the day partitions of history, checkpoints, signals and events from today to p_days ahead. Called by maintenance, any number
-- of times. A partition is built apart and attached: that leaves the parent alone, but locks the default partition, so a
-- day that cannot have it within a fifth of a second is left for the next call. Longer, and whoever comes after would
-- wait too, behind a dump say.
-- A day that came before its partition has rows in the default one already: it stays there, and the others go on.
-- The rows are never changed again, or hardly: vacuum may freeze them the first time it comes, not read them once more
-- when they are old.
create function prepare_partitions(p_days integer default 7) returns table (created text)
language plpgsql
set lock_timeout = '10s'
as $$
declare
    v_day date;
    v_next date;
    v_parent text;
    v_name text;
    v_from text;
    v_to text;
begin
    -- One preparer at a time; the others would only collide on names.
    perform pg_advisory_xact_lock(hashtextextended(current_schema() || '.partitions', 0));
    set local lock_timeout = '200ms';
    for v_day in select d::date from generate_series(engine_now() at time zone 'utc', (engine_now() at time zone 'utc')
                                                     + make_interval(days => p_days), interval '1 day') as d loop
        v_next := v_day + 1;
        for v_parent, v_from, v_to in values
            ('run_history', (v_day::timestamp at time zone 'utc')::text, (v_next::timestamp at time zone 'utc')::text),
            ('checkpoint', first_run_id(v_day)::text, first_run_id(v_next)::text),
            ('signal', first_run_id(v_day)::text, first_run_id(v_next)::text),
            ('event', (v_day::timestamp at time zone 'utc')::text, (v_next::timestamp at time zone 'utc')::text)
        loop
            v_name := v_parent || to_char(v_day, '_YYYYMMDD');
            continue when to_regclass(v_name) is not null;
            begin
                execute format('create table %I (like %I including defaults including constraints)'
                               ' with (autovacuum_freeze_min_age = 0)', v_name, v_parent);
                execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                               v_parent, v_name, v_from, v_to);
                created := v_name;
                return next;
            exception when check_violation then
                raise warning 'the day % of % stays in its default partition, which has rows of it', v_day, v_parent;
            when lock_not_available then
                raise warning 'the day % of % must wait: its default partition is in use', v_day, v_parent;
            end;
        end loop;
    end loop;
end
$$;
