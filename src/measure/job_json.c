/* The record of a measured command as one JSON object. Its keys are added to and never change their meaning. */
#include <math.h>
#include <string.h>

#include "measure/job.h"

static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *bytes_or_null(int64_t bytes)
{
    return bytes < 0 ? json_null() : json_integer(bytes);
}

json_t *energy_json(const struct energy_result *r)
{
    json_t *domains = json_array();

    for (int i = 0; i < r->n_domains; i++) {
        const struct energy_domain *d = &r->domains[i];
        json_array_append_new(domains, json_pack("{s:s, s:o, s:s, s:s, s:b, s:s, s:b, s:o}", "name", d->name, "joules",
                                                 real_or_null(d->joules), "state", meter_state_name(d->state), "reason",
                                                 d->reason, "counted", (int)d->counted, "source",
                                                 d->source ? d->source : "", "integrated", (int)d->integrated,
                                                 "integrated_joules", real_or_null(d->integrated_j)));
    }
    return json_pack("{s:o, s:s, s:s, s:s, s:o, s:o, s:o}", "joules", real_or_null(r->joules), "state",
                     meter_state_name(r->state), "reason", r->reason, "hint", r->hint, "window_s",
                     real_or_null(r->window_s), "update_s", real_or_null(r->update_s), "domains", domains);
}

const char *job_memory_reason(const struct job_record *r)
{
    if (r->peak_bytes >= 0)
        return NULL;
    return r->memory_failed ? "the memory of its processes cannot be read (Linux 5.0 with /proc is needed)"
                            : "the command was over before it could be read";
}

static json_t *gpus_json(const struct energy_gpus *g)
{
    json_t *list = json_array();

    for (int i = 0; i < g->n; i++) {
        const struct energy_gpu *one = &g->gpus[i];
        json_array_append_new(list,
                              json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:i}", "name", one->name, "memory_bytes",
                                        bytes_or_null(one->memory_bytes), "start_bytes",
                                        bytes_or_null(one->start_bytes), "peak_bytes", bytes_or_null(one->peak_bytes),
                                        "process_peak_bytes", bytes_or_null(one->process_bytes), "utilisation",
                                        real_or_null(one->busy), "other_processes", one->n_others));
    }
    return list;
}

json_t *job_json(const struct job_record *r)
{
    const char *reason = job_memory_reason(r);

    return json_pack(
        "{s:f, s:i, s:o, s:o, s:o, s:f, s:I, s:o, s:i, s:i, s:f, s:o, s:o, s:b, s:o, s:I, s:I, s:I, s:I, s:o, s:o}",
        "seconds", r->seconds, "exit_status", r->exit_status, "peak_bytes", bytes_or_null(r->peak_bytes),
        "peak_pss_bytes", bytes_or_null(r->peak_pss_bytes), "memory_reason", reason ? json_string(reason) : json_null(),
        "cpu_seconds", r->cpu_seconds, "samples", (json_int_t)r->n_samples, "sample_interval_s",
        r->n_samples ? json_real(r->sample_interval_s) : json_null(), "processes", r->n_processes,
        "unreadable_processes", r->n_unreadable, "meter_cpu_seconds", r->meter_cpu_seconds, "load_before",
        real_or_null(r->load_before), "steal_seconds", real_or_null(r->steal_seconds), "timed_out", (int)r->timed_out,
        "energy", energy_json(&r->energy), "context_switches", (json_int_t)r->n_switches, "preemptions",
        (json_int_t)r->n_preemptions, "read_bytes", (json_int_t)r->read_bytes, "written_bytes",
        (json_int_t)r->written_bytes, "gpu_peak_bytes", bytes_or_null(r->gpus.peak_bytes), "gpus", gpus_json(&r->gpus));
}
