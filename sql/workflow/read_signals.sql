-- What was sent to these runs, in the order of arrival.
create function read_signals(p_runs bigint[]) returns table (run_id bigint, name text, no integer, payload text)
language sql stable
as $$
    select s.run_id, s.name, s.no, s.payload::text
    from signal as s
    where s.run_id = any (p_runs)
    order by s.run_id, s.name, s.no
$$;
