-- The engine locks, then reads again in a new statement; under a fixed snapshot that second read would be blind.
create function assert_read_committed() returns void
language plpgsql
as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'the transaction is %, the engine needs read committed', current_setting('transaction_isolation')
            using errcode = 'HW008', hint = 'begin the transaction with: begin isolation level read committed';
    end if;
end
$$;
