/* Sources find their channels once; then one thread polls each of them in its own time, under the lock that every reader
 * takes. energy_read polls once more and has the channels judged. */
#include "measure/energy.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/mem.h"
#include "measure/channel.h"
#include "measure/clock.h"
#include "measure/energy_total.h"
#include "measure/machine.h"
#include "measure/sysfile.h"
#include "measure/wall.h"

#define NOTE_S 0.5 /* between two looks at the processes of GPUs */
#define MAX_PROCESSES 256 /* of a GPU */

/* Each sees what those before it have found: events stand in for zones, hwmon for the GPUs' libraries. */
static const struct energy_source *const sources[] = { &rapl_source, &perf_source,  &nvml_source, &amdsmi_source,
                                                       &rocm_source, &hwmon_source, &ipmi_source, &wall_source };

struct energy_meter {
    struct channel_set set;
    void *own[ENERGY_MAX_SOURCES]; /* the sources' states, in their order */
    struct energy_surroundings where;
    char zones_folder[FILE_PATH_MAX];
    double start_s, poll_s, suspended_before_s, noted_s;
    int64_t gpu_peak_bytes;
    struct {
        int64_t process_bytes;
        int n_others;
    } gpus[ENERGY_MAX_DOMAINS]; /* by channel */
    pthread_t thread;
    bool polling, stopping;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

/* ---- gathering ---- */

static int64_t gpu_bytes(const struct energy_meter *m)
{
    int64_t sum = 0;
    bool some = false;

    for (int i = 0; i < m->set.n; i++) {
        const struct channel *c = &m->set.items[i];

        if (!c->gpu || c->start_bytes < 0 || c->last.used_bytes < 0)
            continue;
        some = true;
        if (c->last.used_bytes > c->start_bytes)
            sum += c->last.used_bytes - c->start_bytes;
    }
    return some ? sum : -1;
}

/* With the lock held, as all that follow. */
static void poll_all(struct energy_meter *m, bool only_due)
{
    const double now_s = clock_seconds();

    for (int i = 0; i < m->set.n; i++) {
        struct channel *c = &m->set.items[i];

        if (!only_due || now_s - c->last_s >= 0.5 * c->every_s)
            channel_poll(c);
    }
    const int64_t bytes = gpu_bytes(m);
    if (bytes > m->gpu_peak_bytes)
        m->gpu_peak_bytes = bytes;
}

/* A sensor that sees a part of the time only must not be looked at in step with a loop: the pace wanders. */
static double next_wait(const struct energy_meter *m, uint32_t *random)
{
    *random = *random * 1664525u + 1013904223u;
    return m->poll_s * (0.75 + 0.5 * (double)(*random >> 8) / 16777216.0);
}

static void *poll_main(void *data)
{
    struct energy_meter *m = data;
    uint32_t random = 1;

    pthread_mutex_lock(&m->lock);
    while (!m->stopping) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        const int64_t ns = t.tv_nsec + (int64_t)(next_wait(m, &random) * 1e9);
        t.tv_sec += (time_t)(ns / 1000000000);
        t.tv_nsec = (long)(ns % 1000000000);
        pthread_cond_timedwait(&m->wake, &m->lock, &t);
        if (!m->stopping)
            poll_all(m, true);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

/* Four readings at least in the shortest time in which a counter can go round. */
static double poll_interval(struct channel_set *set)
{
    double poll_s = 1;

    for (int i = 0; i < set->n; i++) {
        struct channel *c = &set->items[i];

        if (c->range_uj > 0)
            c->every_s = fmin(c->every_s, fmax(1e-6 * (double)c->range_uj / (4 * c->limit_w), 0.01));
        poll_s = fmin(poll_s, c->every_s);
    }
    return poll_s;
}

static int start_thread(struct energy_meter *m, struct err *err)
{
    sigset_t all, old;

    sigfillset(&all); /* signals belong to the threads of the run */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    errno = pthread_create(&m->thread, NULL, poll_main, m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    m->polling = errno == 0;
    return m->polling ? 0 : err_errno(err, "could not start the energy meter's thread");
}

/* ---- opening and closing ---- */

static void open_sources(struct energy_meter *m, const struct energy_options *o)
{
    for (int i = 0; i < COUNT_OF(sources); i++) {
        struct energy_finding *f = &m->set.findings[m->set.n_findings++];
        const int before = m->set.n;

        *f = (struct energy_finding){ .source = sources[i]->name };
        if (sources[i]->device && !o->devices)
            continue;
        sources[i]->open(&m->set, o, &m->own[i], f);
        f->n_channels = m->set.n > before ? m->set.n - before : 0;
    }
}

static void init(struct energy_meter *m)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->wake, &attr);
    pthread_condattr_destroy(&attr);
    m->gpu_peak_bytes = -1;
    for (int i = 0; i < ENERGY_MAX_DOMAINS; i++)
        m->gpus[i].process_bytes = -1;
    m->where.hypervisor = machine_is_virtual();
    m->where.zones_folder = m->zones_folder;
    if (sysfile_path(m->zones_folder, SYSFILE_SYS, "class/powercap") != 0)
        m->zones_folder[0] = '\0';
    m->suspended_before_s = clock_suspended_seconds();
}

int energy_open(struct energy_meter **out, const struct energy_options *o, struct err *err)
{
    static const struct energy_options none;

    *out = NULL;
    struct energy_meter *m = mem_array(1, 1, sizeof *m, MEM_RECORD, err);
    if (!m)
        return -1;
    init(m);
    open_sources(m, o ? o : &none);
    for (int i = 0; i < m->set.n; i++) /* again: finding the others took its time, and that is no part of the window */
        if (m->set.items[i].first_error == 0) {
            m->set.items[i].n_power = 0;
            m->set.items[i].integral_j = 0;
            channel_start(&m->set.items[i]);
        }
    m->start_s = clock_seconds();
    m->poll_s = poll_interval(&m->set);
    if (m->set.n > 0 && start_thread(m, err) != 0) {
        energy_stop(m);
        return -1;
    }
    *out = m;
    return 0;
}

int energy_start(struct energy_meter **out, struct err *err)
{
    return energy_open(out, NULL, err);
}

void energy_stop(struct energy_meter *m)
{
    if (!m)
        return;
    if (m->polling) {
        pthread_mutex_lock(&m->lock);
        m->stopping = true;
        pthread_cond_signal(&m->wake);
        pthread_mutex_unlock(&m->lock);
        pthread_join(m->thread, NULL);
    }
    for (int i = 0; i < COUNT_OF(sources); i++)
        if (m->own[i] && sources[i]->close)
            sources[i]->close(m->own[i]);
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->wake);
    mem_free(m);
}

pid_t energy_helper(const struct energy_meter *m)
{
    return m && m->own[COUNT_OF(sources) - 1] ? wall_helper(m->own[COUNT_OF(sources) - 1]) : 0;
}

/* ---- reading ---- */

void energy_read(struct energy_meter *m, struct energy_result *out)
{
    pthread_mutex_lock(&m->lock);
    poll_all(m, false);
    const double now_s = clock_seconds();
    *out = (struct energy_result){ .state = METER_UNAVAILABLE,
                                   .joules = NAN,
                                   .window_s = now_s - m->start_s,
                                   .n_domains = m->set.n,
                                   .n_findings = m->set.n_findings };
    for (int i = 0; i < m->set.n; i++)
        channel_judge(&m->set.items[i], now_s, &out->domains[i]);
    memcpy(out->findings, m->set.findings, sizeof out->findings);
    m->where.suspended_s = clock_suspended_seconds() - m->suspended_before_s;
    energy_total(&m->set, &m->where, out);
    pthread_mutex_unlock(&m->lock);
}

void energy_covers(const struct energy_result *r, char *out, size_t size)
{
    size_t used = 0;

    out[0] = '\0';
    for (int i = 0; i < r->n_domains; i++)
        if (r->domains[i].counted && used < size)
            used += (size_t)snprintf(out + used, size - used, "%s%s%s", used ? " + " : "", r->domains[i].name,
                                     r->domains[i].integrated ? " (integrated)" : "");
}

int energy_check(const struct energy_options *o, struct energy_result *out, struct err *err)
{
    struct timespec window = { .tv_nsec = 50000000 }; /* tens of updates: a counter that works has moved */
    struct energy_meter *m;

    if (energy_open(&m, o, err) != 0)
        return -1;
    for (int i = 0; i < m->set.n; i++)
        if (m->set.items[i].update_s > 0.01)
            window.tv_nsec = 400000000;
    nanosleep(&window, NULL);
    energy_read(m, out);
    energy_stop(m);
    return 0;
}

/* ---- GPUs ---- */

void energy_read_gpus(struct energy_meter *m, struct energy_gpus *out)
{
    pthread_mutex_lock(&m->lock);
    *out = (struct energy_gpus){ .peak_bytes = m->gpu_peak_bytes };
    for (int i = 0; i < m->set.n; i++) {
        const struct channel *c = &m->set.items[i];

        if (!c->gpu || out->n == ENERGY_MAX_GPUS)
            continue;
        struct energy_gpu *g = &out->gpus[out->n++];
        *g = (struct energy_gpu){ .memory_bytes = c->memory_bytes,
                                  .start_bytes = c->start_bytes,
                                  .peak_bytes = c->peak_bytes,
                                  .process_bytes = m->gpus[i].process_bytes,
                                  .busy = c->n_busy ? c->busy_sum / (double)c->n_busy : NAN,
                                  .n_others = m->gpus[i].n_others };
        memcpy(g->name, c->name, sizeof g->name);
    }
    pthread_mutex_unlock(&m->lock);
}

int64_t energy_gpu_bytes(struct energy_meter *m)
{
    pthread_mutex_lock(&m->lock);
    const int64_t bytes = gpu_bytes(m);
    pthread_mutex_unlock(&m->lock);
    return bytes;
}

static bool is_ours(pid_t pid, const pid_t *pids, int n)
{
    for (int i = 0; i < n; i++)
        if (pids[i] == pid)
            return true;
    return false;
}

/* A miss is no zero: in a container the driver's process ids are the host's, and match none of ours. */
static void note_channel(struct energy_meter *m, int i, const pid_t *pids, int n)
{
    struct channel_process found[MAX_PROCESSES];
    const struct channel *c = &m->set.items[i];
    const int n_found = c->source->processes(c, found, MAX_PROCESSES);
    int64_t bytes = -1;
    int others = 0;

    for (int k = 0; k < n_found; k++)
        if (!is_ours(found[k].pid, pids, n))
            others++;
        else if (found[k].bytes >= 0 && found[k].bytes <= INT64_MAX / 4 - (bytes < 0 ? 0 : bytes))
            bytes = (bytes < 0 ? 0 : bytes) + found[k].bytes;
    if (bytes > m->gpus[i].process_bytes)
        m->gpus[i].process_bytes = bytes;
    if (others > m->gpus[i].n_others)
        m->gpus[i].n_others = others;
}

void energy_note_processes(struct energy_meter *m, const pid_t *pids, int n)
{
    pthread_mutex_lock(&m->lock);
    const double now_s = clock_seconds();
    if (now_s - m->noted_s >= NOTE_S) {
        m->noted_s = now_s;
        for (int i = 0; i < m->set.n; i++)
            if (m->set.items[i].gpu && m->set.items[i].first_error == 0 && m->set.items[i].source->processes)
                note_channel(m, i, pids, n);
    }
    pthread_mutex_unlock(&m->lock);
}
