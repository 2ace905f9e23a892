-- Lets claims look at every lane of a queue again.
create function unpark_queue(p_queue text) returns void
language plpgsql
as $$
declare
    v_tenants text[] := array(select distinct l.tenant_id from lane as l where l.queue = p_queue);
begin
    perform unpark_lanes(array_fill(p_queue, array[cardinality(v_tenants)]), v_tenants);
end
$$;
