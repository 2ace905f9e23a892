-- Opens the operator schema beside this cell to the role howdah_operator, and nothing else: its views read and its functions
-- act with their owner's rights, so that the role needs none on the cell itself. Called by the installation; again where
-- the role came later, by the owner: select grant_operators('ops').
-- The functions' path begins with the cell, which the engine takes for its own name when it notifies, and ends with
-- pg_temp: else a caller's temporary table could stand in for one of the engine's.
create function grant_operators(p_schema text) returns void
language plpgsql
as $$
declare
    v_function regprocedure;
begin
    for v_function in
        select p.oid from pg_proc as p where p.pronamespace = p_schema::regnamespace
    loop
        execute format('alter function %s security definer set search_path = %I, public, pg_temp',
                       v_function, current_schema());
        execute format('revoke execute on function %s from public', v_function);
    end loop;
    -- Roles belong to the server: another database or another cell may have made it, also this very moment.
    begin
        if to_regrole('howdah_operator') is null then
            create role howdah_operator nologin;
        end if;
    exception
        when duplicate_object or unique_violation then
            null;
        when insufficient_privilege then
            raise notice 'there is no role howdah_operator, and % may not create it', current_user
                using hint = format('have it created, then: select grant_operators(%L)', p_schema);
            return;
    end;
    execute format('grant usage on schema %I to howdah_operator', p_schema);
    execute format('grant select on all tables in schema %I to howdah_operator', p_schema);
    execute format('grant execute on all functions in schema %I to howdah_operator', p_schema);
end
$$;
