-- Workers write what they can run: name, kind, queue, JSON schema of the arguments, one line of description.
create function register_tasks(p_names text[], p_kinds text[], p_queues text[], p_schemas text[], p_descriptions text[])
returns void
language plpgsql
as $$
begin
    if exists (select from unnest(p_names) as n where n like '%@1') then
        raise exception 'no task can be named %', (select n from unnest(p_names) as n where n like '%@1' limit 1)
            using errcode = 'HW016', hint = 'the first version has the plain name; ''name@1'' means it';
    end if;

    insert into queue (name)
    select distinct q from unnest(p_queues) as q order by q
    on conflict do nothing;

    insert into task as t (name, kind, queue, args_schema, description, updated_at)
    select i.name, i.kind, i.queue, i.args_schema::jsonb, i.description, engine_now()
    from unnest(p_names, p_kinds, p_queues, p_schemas, p_descriptions) as i(name, kind, queue, args_schema, description)
    order by i.name
    on conflict (name) do update
    set kind = excluded.kind, queue = excluded.queue, args_schema = excluded.args_schema,
        description = excluded.description, updated_at = excluded.updated_at
    where (t.kind, t.queue, t.args_schema, t.description)
        is distinct from (excluded.kind, excluded.queue, excluded.args_schema, excluded.description);

    -- The plain name of versions is there without a worker that has the first.
    insert into task as t (name, kind, queue, args_schema, description, updated_at, newest)
    select distinct on (split_part(i.name, '@', 1)) split_part(i.name, '@', 1), i.kind, i.queue, i.args_schema::jsonb,
           i.description, engine_now(), i.name
    from unnest(p_names, p_kinds, p_queues, p_schemas, p_descriptions) as i(name, kind, queue, args_schema, description)
    where i.name ~ '^[^@]+@[0-9]+$'
    order by split_part(i.name, '@', 1), split_part(i.name, '@', 2)::integer desc
    on conflict (name) do update set newest = excluded.newest, updated_at = excluded.updated_at
    where split_part(excluded.newest, '@', 2)::integer > coalesce(nullif(split_part(t.newest, '@', 2), '')::integer, 1);
end
$$;
