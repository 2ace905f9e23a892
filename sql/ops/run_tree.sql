-- select * from ops.run_tree(1234): a run and its descendants, those nearest to it first, 1,000 at most.
create function run_tree(p_run bigint, p_limit integer default 1000)
returns table (run_id bigint, parent_id bigint, step text, depth integer, task text, state text, error text)
language sql
as $$
    select * from read_tree(null, p_run, least(p_limit, 1000))
$$;
