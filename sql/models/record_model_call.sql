-- Keeps what one attempt at a model used and cost, for its tenant and, where there is one, its run and step.
create function record_model_call(
    p_tenant text, p_run bigint, p_step text, p_model text, p_purpose text, p_status text,
    p_input_tokens integer, p_output_tokens integer, p_cost numeric, p_latency_ms double precision, p_error text
) returns void
language sql
as $$
    insert into model_call (tenant_id, run_id, step, model, purpose, status, input_tokens, output_tokens, cost,
                            latency_ms, error, created_at)
    values (p_tenant, p_run, p_step, p_model, p_purpose, p_status, p_input_tokens, p_output_tokens, p_cost,
            p_latency_ms, p_error, engine_now())
$$;
