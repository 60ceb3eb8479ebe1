#include "cli/measure_words.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "report/exports.h"
#include "report/ratios.h"

static const char *bytes_text(char *out, size_t size, int64_t bytes)
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    double value = (double)bytes;
    int i = 0;

    for (; value >= 1024 && i + 1 < COUNT_OF(units); i++)
        value /= 1024;
    snprintf(out, size, "%.*f %s", i ? 2 : 0, value, units[i]);
    return out;
}

static void print_energy(const struct energy_result *e, const struct measure_idle *idle)
{
    if (e->state == METER_UNAVAILABLE) {
        log_note("energy  unavailable: %s", e->reason);
        if (e->hint[0])
            log_detail("        %s", e->hint);
        return;
    }
    log_note("energy  %s%.4g J, %.4g W on average; %s", e->state == METER_MEASURED ? "" : "~", e->joules,
             e->joules / e->window_s, e->reason);
    if (!isnan(idle->net_j))
        log_note("        %.4g J beyond the %.4g W that the machine drew before", idle->net_j, idle->watts);
    if (2 * e->update_s > 0.01 * e->window_s)
        log_note("        the window is short: give or take %.0f %%", 200 * e->update_s / e->window_s);
    for (int i = 0; i < e->n_domains; i++)
        log_detail("        %s: %.4g J, %s%s%s", e->domains[i].name, e->domains[i].joules,
                   e->domains[i].counted ? "counted" : "not counted", e->domains[i].reason[0] ? ", " : "",
                   e->domains[i].reason);
}

static void print_memory(const struct job_record *r)
{
    char peak[32], pss[32];

    if (r->peak_bytes < 0) {
        log_note("memory  unavailable: %s", job_memory_reason(r));
        return;
    }
    log_note("memory  %s at the peak, %s with mapped files; up to %d process%s, %" PRId64 " readings, every %.0f ms",
             bytes_text(peak, sizeof peak, r->peak_bytes), bytes_text(pss, sizeof pss, r->peak_pss_bytes),
             r->n_processes, r->n_processes == 1 ? "" : "es", r->n_samples, 1e3 * r->sample_interval_s);
    if (r->n_unreadable > 0)
        log_warning("%d process%s of another user could not be read: the peak lacks their memory", r->n_unreadable,
                    r->n_unreadable == 1 ? "" : "es");
}

static void print_gpus(const struct energy_gpus *g)
{
    char peak[32], of[32];

    if (g->peak_bytes >= 0)
        log_note("GPU     %s at the peak beyond what was used before, on %d device%s",
                 bytes_text(peak, sizeof peak, g->peak_bytes), g->n, g->n == 1 ? "" : "s");
    for (int i = 0; i < g->n; i++) {
        const struct energy_gpu *one = &g->gpus[i];

        if (one->peak_bytes >= 0)
            log_detail("        %s: %s used of %s, %.0f %% busy", one->name,
                       bytes_text(peak, sizeof peak, one->peak_bytes), bytes_text(of, sizeof of, one->memory_bytes),
                       100 * one->busy);
        if (one->n_others > 0 && one->process_bytes >= 0)
            log_warning("%d process%s of others on %s: their joules are in our number", one->n_others,
                        one->n_others == 1 ? "" : "es", one->name);
    }
}

static void print_steps(const struct steps *s, const struct steps_window *w)
{
    char bytes[32];

    if (s->n_rejected > 0)
        log_warning("%" PRId64 " lines of the command's metrics were left out; the first: %s", s->n_rejected,
                    s->rejected);
    if (s->n == 0)
        return;
    if (w->reason[0])
        log_note("steps   %" PRId64 " told, no window: %s", s->n, w->reason);
    else
        log_note("steps   %" PRId64 " in %.3f s after %" PRId64 " of warm-up", w->n, w->seconds, w->warmup);
    if (!isnan(w->tokens / w->seconds))
        log_note("        %.4g tokens a second", w->tokens / w->seconds);
    if (!isnan(w->joules))
        log_note("        %.4g J in that window", w->joules);
    if (!isnan(w->final_loss))
        log_note("        last loss %.6g", w->final_loss);
    if (w->allocated_bytes >= 0)
        log_note("        %s allocated at the peak, as it says itself",
                 bytes_text(bytes, sizeof bytes, w->allocated_bytes));
}

void measure_words_print(const struct job_record *r, const char *label, const struct steps *s,
                         const struct steps_window *w, const struct measure_idle *idle)
{
    char safe[256];

    log_note("%s%sexit status %d", label ? log_safe(safe, sizeof safe, label) : "", label ? ": " : "", r->exit_status);
    log_note("time    %.3f s, CPU %.3f s", r->seconds, r->cpu_seconds);
    log_detail("        %" PRId64 " context switches, %" PRId64 " preemptions", r->n_switches, r->n_preemptions);
    print_memory(r);
    print_gpus(&r->gpus);
    print_energy(&r->energy, idle);
    if (s)
        print_steps(s, w);
    if (r->steal_seconds > 0.1 + 0.02 * r->seconds)
        log_warning("the hypervisor took %.2f s of CPU away meanwhile: repeat on a quieter machine", r->steal_seconds);
}

/* ---- against another label ---- */

static int find_label(const struct loaded *l, const char *label)
{
    for (int i = 0; i < l->n_cells; i++)
        if (strcmp(l->cells[i].name, label) == 0 && strcmp(l->cells[i].phase, "command") == 0)
            return i;
    return -1;
}

static void print_ratio(const struct comparison *row, enum ratio_kind kind, const char *of)
{
    const struct ratio *r = &row->ratios[kind];
    char number[96], verdict[160];

    exports_ratio(r, number, sizeof number);
    if (r->source == RATIO_UNAVAILABLE) {
        log_note("%-10s unavailable: %s", ratio_names[kind], r->reason);
        return;
    }
    stats_verdict(&r->e, verdict, sizeof verdict);
    log_note("%-10s %s%s%s%s", ratio_names[kind], number, of, verdict[0] ? ", " : "", verdict);
}

static void print_row(const struct loaded *l, const struct comparison *row)
{
    char a[128], b[128];

    log_note("%s over %s, %d and %d runs:", log_safe(a, sizeof a, l->cells[row->cell].name),
             log_safe(b, sizeof b, l->cells[row->base].name), row->n_done, row->n_base_done);
    for (enum ratio_kind k = RATIO_SPEED; k <= RATIO_ENERGY; k++)
        print_ratio(row, k,
                    k != RATIO_MEMORY                 ? ""
                    : ratios_gpu_memory(l, row->base) ? " of GPU memory"
                                                      : " of host memory");
    for (int i = 0; i < l->n_runs; i++)
        if ((l->runs[i].cell == row->cell || l->runs[i].cell == row->base) && ratios_outlier(l, &l->runs[i]))
            log_note("run %" PRId64 " of %s lies apart from its others, and counts", l->runs[i].block + 1,
                     l->runs[i].cell == row->cell ? a : b);
}

/* A file with the two labels held against each other alone. */
struct versus {
    struct loaded l;
    struct comparisons c;
};

static void versus_close(struct versus *v)
{
    ratios_free(&v->c);
    load_free(&v->l);
}

static int versus_open(struct versus *v, const char *path, const char *label, const char *base, struct err *err)
{
    *v = (struct versus){ 0 };
    if (load_study(&v->l, path, err) != 0)
        return -1;
    const int cell = find_label(&v->l, label), other = find_label(&v->l, base);
    int result = -1;
    if (cell < 0 || other < 0) {
        err_set(err, ERR_USAGE, "there is no run of the label \"%.80s\"", cell < 0 ? label : base);
        err_where(err, "file \"%s\"", path);
        err_hint(err, "Measure it first: tuneup measure --label LABEL with the same file.");
    } else {
        for (int i = 0; i < v->l.n_cells; i++)
            v->l.cells[i].baseline = i == cell ? other : i;
        result = ratios_build(&v->c, &v->l, err);
    }
    if (result != 0)
        versus_close(v);
    return result;
}

int measure_words_versus(const char *path, const char *label, const char *base, struct err *err)
{
    struct versus v;

    if (versus_open(&v, path, label, base, err) != 0)
        return -1;
    for (int i = 0; i < v.c.n; i++)
        print_row(&v.l, &v.c.rows[i]);
    versus_close(&v);
    return 0;
}

int measure_words_width(const char *path, const char *label, const char *base, double *width, struct err *err)
{
    const struct comparison *row;
    enum ratio_kind kind;
    struct versus v;

    if (versus_open(&v, path, label, base, err) != 0)
        return -1;
    *width = ratios_widest(&v.c, &row, &kind);
    versus_close(&v);
    return 0;
}
