-- Drops one day of history, of checkpoints, of signals or of events that is older than it is kept: call it until it answers
-- nothing. One a call, because a drop locks the whole table until its transaction ends.
--   p_keep   for how long history is kept; null: for ever
--   dropped  false: somebody reads or writes the table right now. It waits a fifth of a second at most, because
--            everybody else would wait behind it; the day stays for the next time.
-- A day of checkpoints or signals goes once no run that was enqueued on it is live, or in history: such a run may be requeued, and
-- goes on from its last finished step. Today stays, whatever p_keep is.
-- A day of events goes once no session keeps anything of it (cut_sessions), but neither today nor yesterday, which somebody
-- may just be writing to.
create function drop_partitions(p_keep interval) returns table (partition text, dropped boolean)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
set lock_timeout = '200ms'
as $$
declare
    v_before date := case when p_keep is not null then least(engine_now() - p_keep, engine_now()) at time zone 'utc' end;
begin
    if not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.partitions', 0)) then
        return;
    end if;
    select d.name into partition
    from (
        select c.relname as name, i.inhparent = 'run_history'::regclass as is_history,
               i.inhparent = 'event'::regclass as is_events,
               case when c.relname ~ '_\d{8}$' then right(c.relname, 8)::date end as day
        from pg_inherits as i
        join pg_class as c on c.oid = i.inhrelid
        where i.inhparent in ('run_history'::regclass, 'checkpoint'::regclass, 'signal'::regclass, 'event'::regclass)
    ) as d
    where case when d.is_events then d.day < (engine_now() at time zone 'utc')::date - 1 else d.day < v_before end
      and case
          when d.is_history then true
          when d.is_events then not exists (
              select from tenant as t
              where exists (select from session as s
                            where s.tenant_id = t.id and s.first_at < (d.day + 1)::timestamp at time zone 'utc'))
          else not exists (select from run as r where r.id >= first_run_id(d.day) and r.id < first_run_id(d.day + 1))
               and not exists (select from run_history as h
                               where h.id >= first_run_id(d.day) and h.id < first_run_id(d.day + 1)
                                 and h.finished_at >= d.day::timestamp at time zone 'utc')
          end
    order by d.day, not d.is_history, d.name
    limit 1;
    if partition is not null then
        begin
            execute format('drop table %I', partition);
            dropped := true;
        exception when lock_not_available then
            dropped := false;
        end;
        return next;
    end if;
end
$$;
