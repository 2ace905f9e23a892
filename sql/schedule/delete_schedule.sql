-- Removes a schedule; the runs that it has brought stay.
create function delete_schedule(p_tenant text, p_name text) returns table (deleted boolean)
language plpgsql
as $$
begin
    delete from schedule where tenant_id = p_tenant and name = p_name;
    return query select found;
end
$$;
