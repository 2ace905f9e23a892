-- Says that `lock` cannot be honoured, rather than run such jobs out of order.
create function procrastinate_refuse_lock(p_lock text) returns void
language plpgsql
as $$
begin
    raise exception 'lock % cannot be honoured: ordered sessions are not built yet', quote_literal(p_lock)
        using errcode = 'HW010', hint = 'leave lock out where order does not matter; queueing_lock works';
end
$$;
