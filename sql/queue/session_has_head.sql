-- Whether an ordered session's head is one that its blocked runs may wait for: live and not blocked itself, or failed
-- for good where that stops the session.
create function session_has_head(p_session ordered_session) returns boolean
language sql stable
set enable_seqscan = off
as $$
    select exists (select from run as r where r.id = p_session.head_id and r.state <> 'blocked')
        or exists (select from run_history as h
                   where h.id = p_session.head_id and h.finished_at >= run_created_at(p_session.head_id)
                     and h.state = 'failed' and h.on_failure = 'block')
$$;
