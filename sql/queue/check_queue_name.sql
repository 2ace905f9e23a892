-- Refuses what cannot be a queue's name; null is none.
create function check_queue_name(p_queue text) returns void
language plpgsql
as $$
begin
    if p_queue !~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$' then
        raise exception 'queue % is not a name', quote_literal(p_queue)
            using errcode = 'HW016', hint = 'use up to 128 letters, digits and . _ : - beginning with a letter or digit';
    end if;
end
$$;
