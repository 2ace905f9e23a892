-- The key that signs stream tokens, the same for all processes of the cell; made at its first use.
create function stream_secret() returns table (secret bytea)
language plpgsql
as $$
#variable_conflict use_column
begin
    insert into secret (name, value) values ('stream', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
    on conflict do nothing;
    return query select s.value from secret as s where s.name = 'stream';
end
$$;
