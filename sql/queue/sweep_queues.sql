-- Looks for what the engine's invariants forbid, and repairs it: what nobody foresaw, or did by hand, must not strand a
-- run for ever. Answers what it repaired, by kind; nothing where all is well. Each call looks at up to p_limit places of
-- each kind, goes on where the last call stopped, and begins anew after the end. One sweep at a time; another answers nothing.
-- It sees others' transactions from outside, as they began or as they ended, and in both states the invariants hold:
-- what one statement finds broken is broken. Each repair then locks what it found, skips what is held, and looks again.
create function sweep_queues(p_limit integer default 5000, p_notify boolean default true)
returns table (kind text, repaired integer)
language plpgsql
as $$
begin
    perform assert_read_committed();
    if not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.sweep', 0)) then
        return;
    end if;
    return query select * from sweep_workers(p_limit, p_notify);
    return query select * from sweep_sessions(p_limit, p_notify);
    return query select * from sweep_queued(p_limit, p_notify);
    return query select * from sweep_lanes(p_limit, p_notify);
    return query select * from sweep_waiting(p_limit);
end
$$;
