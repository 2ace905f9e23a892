-- Whether a run can wait for this: a JSON array of what waits_over describes, each with its fields, and with a time where it
-- is only a sleep. What is not understood would never come, and the run never wake.
create function wait_is_understood(p_awaits jsonb, p_until timestamptz) returns boolean
language sql immutable
as $$
    select case when jsonb_typeof(p_awaits) = 'array' then
        jsonb_array_length(p_awaits) > 0 and not exists (
            select from jsonb_array_elements(p_awaits) as a
            where not coalesce(
                case when a ? 'sleep' then p_until is not null
                     when a ? 'signal' then jsonb_typeof(a -> 'signal') = 'string' and a ->> 'after' ~ '^[0-9]{1,9}$'
                     when a ? 'children' then jsonb_typeof(a -> 'children') = 'string'
                     when a ? 'events' then a ->> 'events' ~ '^[0-9]{1,18}$'
                                            and coalesce(jsonb_typeof(a -> 'types'), 'null') in ('array', 'null')
                end, false))
        else false end
$$;
