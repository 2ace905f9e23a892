-- Writes how the attempt of a held run ended; p_outcome and p_change as in flush. A stock worker would not send it again: what flush
-- could not write is raised.
create function procrastinate_end_attempt(p_run run, p_outcome text, p_error text, p_at timestamptz default null,
                                          p_change text default null)
returns void
language plpgsql
as $$
declare
    v_status text;
begin
    select f.status into v_status
    from flush(array[p_run.id], array[p_run.attempt], array['outcome'], array[p_outcome], array[p_error],
               array[p_change], array[p_at]) as f;
    if v_status <> 'ok' then
        raise exception 'job % was changed by somebody else while it ended: %', p_run.id, v_status
            using errcode = 'HW001', hint = 'its attempt is over, or was ended twice at once: look at its status';
    end if;
end
$$;
