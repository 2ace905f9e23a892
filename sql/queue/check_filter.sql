-- Refuses a filter that has keys other than these, or a limit that is no chunk's: what acts on many runs must not act on
-- more than was meant.
create function check_filter(p_filter jsonb, p_known text[], p_limit integer) returns void
language plpgsql
as $$
declare
    v_key text;
begin
    if jsonb_typeof(p_filter) is distinct from 'object' then
        raise exception 'the filter is %', coalesce(jsonb_typeof(p_filter), 'null')
            using errcode = 'HW016', hint = 'give an object, such as {"queue": "mail"}, or {} for all';
    end if;
    for v_key in select jsonb_object_keys(p_filter) loop
        if v_key <> all (p_known) then
            raise exception 'the filter has an unknown key %', quote_literal(v_key)
                using errcode = 'HW016', hint = 'use ' || array_to_string(p_known, ', ');
        end if;
    end loop;
    if p_limit is null or p_limit not between 1 and 10000 then
        raise exception 'the limit is %', coalesce(p_limit::text, 'null')
            using errcode = 'HW016', hint = 'give a number from 1 to 10000, and repeat while there is more';
    end if;
    if p_filter ? 'ids' and jsonb_typeof(p_filter -> 'ids') <> 'array' then
        raise exception 'the filter''s ids are %', p_filter -> 'ids'
            using errcode = 'HW016', hint = 'give an array of run ids';
    end if;
end
$$;
