-- Brings the catalogue up to what a process was configured with. Whether a model is enabled stays the operator's choice.
create function register_models(
    p_names text[], p_kinds text[], p_providers text[], p_context_windows integer[], p_max_outputs integer[],
    p_input_prices numeric[], p_output_prices numeric[], p_strengths text[], p_qualities smallint[]
) returns void
language sql
as $$
    insert into model as m (name, kind, provider, context_window, max_output_tokens, input_price, output_price,
                            strengths, quality, updated_at)
    select i.name, i.kind, i.provider, i.context_window, i.max_output, i.input_price, i.output_price,
           string_to_array(i.strengths, ','), i.quality, engine_now()
    from unnest(p_names, p_kinds, p_providers, p_context_windows, p_max_outputs, p_input_prices, p_output_prices,
                p_strengths, p_qualities)
        as i(name, kind, provider, context_window, max_output, input_price, output_price, strengths, quality)
    order by i.name
    on conflict (name) do update
    set kind = excluded.kind, provider = excluded.provider, context_window = excluded.context_window,
        max_output_tokens = excluded.max_output_tokens, input_price = excluded.input_price,
        output_price = excluded.output_price, strengths = excluded.strengths, quality = excluded.quality,
        updated_at = excluded.updated_at
$$;
