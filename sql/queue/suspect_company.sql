-- How many suspect runs may run together on a worker that runs nothing else, by how often they have died: ever fewer, so
-- that a run which kills its workers is soon alone, and the hundreds that died with it do not have to go one by one.
create function suspect_company(p_deaths integer) returns integer
language sql immutable
as $$
    select case when p_deaths <= 2 then 50 when p_deaths = 3 then 5 else 1 end
$$;
