-- Lets stock clients' `delete from procrastinate_jobs` (their remove_old_jobs) reach history.
create function procrastinate_delete_job() returns trigger
language plpgsql
as $$
begin
    perform procrastinate_delete_runs(array[old.id]);
    return old;
end
$$;

create trigger procrastinate_delete_job instead of delete on procrastinate_jobs
for each row execute function procrastinate_delete_job();
