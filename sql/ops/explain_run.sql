-- select ops.explain_run(1234): why it does not run now, in one sentence.
create function explain_run(p_run bigint) returns text
language sql
as $$
    select explain_run(null, p_run)
$$;
