/* Bandwidths and overheads by small loops, products and all other ops inside plans: exec's hook gives each step's seconds, the
 * op table its flops and bytes. A sample is the lower quartile of an op's seconds at one size. */
#include "run/calibrate.h"

#include <fcntl.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "comm/comm.h"
#include "graph/optimizer.h"
#include "measure/clock.h"
#include "measure/energy.h"
#include "measure/machine.h"
#include "phases/sampler.h"
#include "plan/predict.h"
#include "run/ppo_spec.h"
#include "run/run.h"

#define TIMED_MAX (PROFILE_MAX_SAMPLES / 2) /* alone, and by two ranks */
#define KEPT 9 /* timings of an op at one size */
#define IDLE_S 1.0

/* ---- the file ---- */

int calibrate_path(char out[FILE_PATH_MAX], struct err *err)
{
    const char *own = getenv("TUNEUP_PROFILE"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n;

    if (own && own[0])
        n = snprintf(out, FILE_PATH_MAX, "%s", own);
    else if (cache && cache[0] == '/')
        n = snprintf(out, FILE_PATH_MAX, "%s/tuneup/profile.json", cache);
    else if (home && home[0] == '/')
        n = snprintf(out, FILE_PATH_MAX, "%s/.cache/tuneup/profile.json", home);
    else {
        err_set(err, ERR_UNAVAILABLE, "there is no place for a machine profile: HOME is not set");
        return err_hint(err, "Name a file in TUNEUP_PROFILE.");
    }
    return n < FILE_PATH_MAX ? 0 : err_set(err, ERR_INPUT, "the path of the machine profile is too long");
}

static int64_t memory_gib(const struct machine *m)
{
    return m->memory_bytes < 0 ? 0 : (m->memory_bytes + (1 << 29)) >> 30;
}

int calibrate_local(struct profile *p, char *why, size_t size, struct err *err)
{
    char path[FILE_PATH_MAX];
    struct machine m;

    *p = (struct profile){ 0 };
    if (calibrate_path(path, err) != 0 || !file_exists(path)) {
        snprintf(why, size, "this machine has no measured profile: `tuneup doctor --profile` makes one");
        return 0;
    }
    if (profile_load(p, path, err) != 0)
        return -1;
    machine_read(&m);
    if (strcmp(p->cpu, m.cpu) == 0 && p->cpus == m.n_cpus && p->memory_gib == memory_gib(&m))
        return 1;
    snprintf(
        why, size,
        "the profile in \"%.300s\" is of another machine (%.60s, %d CPUs): `tuneup doctor --profile` measures this "
        "one",
        path, p->cpu, (int)p->cpus);
    profile_free(p);
    return 0;
}

/* ---- samples ---- */

struct timed {
    struct profile_sample sample;
    double seconds[KEPT];
    int n;
};

struct collector {
    const struct plan *plan;
    int ranks, threads; /* at work at the same time; threads of each */
    struct comm *together; /* of those ranks, NULL: one alone */
    bool quick; /* the smallest size alone */
    struct timed *items;
    int n, room;
    bool failed;
};

static struct timed *find(struct collector *c, const struct profile_sample *like)
{
    for (int i = 0; i < c->n; i++) {
        const struct profile_sample *s = &c->items[i].sample;
        if (s->op == like->op && s->type == like->type && s->flops == like->flops && s->bytes == like->bytes)
            return &c->items[i];
    }
    return NULL;
}

static struct timed *add(struct collector *c, const struct profile_sample *like)
{
    struct err err;

    if (c->n == c->room) {
        struct timed *grown = mem_resize(c->items, 2 * (int64_t)c->room + 64, sizeof *grown, MEM_PLAN, &err);
        if (!grown)
            return NULL;
        c->items = grown;
        c->room = 2 * c->room + 64;
    }
    c->items[c->n] = (struct timed){ .sample = *like };
    return &c->items[c->n++];
}

static void note(void *context, const struct program *g, const struct op_step *s, double seconds)
{
    struct collector *c = context;
    const struct profile_sample like = { .op = (int)s->op,
                                         .type = (int)predict_type(c->plan, s),
                                         .ranks = c->ranks,
                                         .flops = s->cost.flops,
                                         .bytes = s->cost.bytes_moved,
                                         .threads = c->threads };

    (void)g;
    if (s->cost.bytes_moved < 64 || op_is_collective(s->op))
        return;
    struct timed *t = find(c, &like);
    if (!t && c->n < TIMED_MAX)
        t = add(c, &like);
    c->failed |= !t;
    if (t && t->n < KEPT)
        t->seconds[t->n++] = seconds;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, compare);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* Others' work only ever makes an op slower. */
static double lower_quartile(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, compare);
    return x[n / 4];
}

/* ---- plans to time ---- */

/* Sizes like OPT's: heads of 64, feed-forward of 4 C; large ones with few layers, since layers are alike. */
static const struct size {
    int64_t C, L, V, B, T;
    bool all; /* every technique that changes numbers alone too */
    int phases, pair_phases; /* the first so many of time_all's, alone and with two ranks */
    double budget_s; /* of a plan */
} sizes[] = {
    { 128, 2, 2048, 2, 128, false, 3, 3, 0.1 },
    { 256, 2, 8192, 4, 256, true, 3, 3, 0.2 },
    { 768, 1, 8192, 2, 256, false, 2, 1, 0.3 },
    { 1024, 1, 50272, 1, 256, false, 1, 0, 0.3 },
};

static void set_values(float *x, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = scale * ((float)((uint32_t)(i * 2654435761u) >> 8) / 8388608.0F - 1);
}

/* Weights that are no constants, and inputs that are in range: ids and columns 0. */
static void fill(struct exec *e)
{
    for (int i = 0; i < e->plan->n_buffers; i++) {
        const struct buffer *b = &e->plan->buffers[i];
        if (b->kind != KIND_PARAM || b->parent >= 0)
            continue;
        if (b->dtype == F32)
            set_values(exec_address(e, i), b->count, 0.05F);
        else if (b->dtype == BF16)
            for (int64_t k = 0; k < b->count; k++)
                ((uint16_t *)exec_address(e, i))[k] = (uint16_t)((k & 1 ? 0xbd00 : 0x3d00) + k % 97);
    }
}

static void set_hyper(double *h)
{
    for (int i = 0; i < HYPER_N; i++)
        h[i] = 0.5;
    for (int g = 0; g < OPTIMIZER_GROUPS; g++)
        h[HYPER_LR + g] = 1e-5;
    h[HYPER_EPSILON] = 1e-8;
}

/* The columns that rows attend to, and what divides losses. */
static void set_inputs(struct exec *e, const struct program *g)
{
    const struct plan *p = e->plan;

    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        const char *slash = strrchr(b->name, '/'), *name = slash ? slash + 1 : b->name;
        const int64_t n = shape_count(&b->shape);
        int32_t *ints = exec_address(e, i);

        if (b->dtype == F64 && strcmp(name, "hyper") == 0)
            set_hyper(exec_address(e, i));
        if (!b->input)
            continue;
        if (b->dtype == I32 && strcmp(name, "spans") == 0)
            for (int64_t k = 0; k < n; k++)
                ints[k] = k % 2 ? (int32_t)(g->T > 1 ? g->T : 1) : 0;
        else if (b->dtype == I32 && strcmp(name, "pairs") == 0)
            for (int64_t k = 0; k < n; k++)
                ints[k] = k % PAIR_N < PAIR_TERMS ? 0 : (int32_t)(g->T - 1);
        else if (b->dtype == F32 && strcmp(name, "norm") == 0)
            set_values(exec_address(e, i), n, 1e-3F);
    }
}

/* Another run? Ranks of a run wait for each other in collectives, so the same op is at work in all of them: here they begin
 * each run of a program together, as long as all want one more. -1: one of them has failed. */
static int goes_on(const struct collector *c, int result, bool more, struct err *err)
{
    double all = result != 0 ? -c->ranks : more ? 1 : 0;

    if (!c->together)
        return result != 0 ? -1 : more;
    if (c->together->all_reduce(c->together, &all, 1, F64, err) != 0 || result != 0)
        return -1;
    return all < 0 ? err_set(err, ERR_RUN, "another rank could not time its ops") : all == c->ranks;
}

static int time_program(const struct collector *c, struct exec *e, int program, double budget_s, struct err *err)
{
    const struct program *g = &e->plan->programs[program];
    const struct run_context x = {
        .B = g->B, .T = g->T, .row_step = 1, .seed = 1, .training = true, .first_micro = true
    };
    const double start_s = clock_seconds();
    exec_hook *hook = e->hook;
    int more = 1;

    set_inputs(e, g);
    for (int n = 0; more > 0; n++) {
        e->hook = n == 0 ? NULL : hook; /* once to warm up */
        const int result = exec_run(e, program, &x, err);
        more = goes_on(c, result, n < KEPT && (n < 2 || clock_seconds() - start_s < budget_s), err);
    }
    e->hook = hook;
    return more;
}

static int time_plan(struct collector *c, const struct run_form *form, const struct spec *s,
                     const struct run_model *models, double budget_s, struct err *err)
{
    struct plan p = { 0 };
    struct exec e = { 0 };
    struct backend b = { 0 };
    struct comm alone;

    comm_alone(&alone);
    c->plan = &p;
    int result = form->plan(s, models, true, 0, 1, &(struct run_live){ 0 }, &p, err);
    if (result == 0)
        result = backend_open(&b, "cpu", c->threads, err);
    if (result == 0)
        result = exec_prepare(&e, &p, &b, &alone, err);
    if (result == 0)
        result = exec_allocate(&e, err);
    if (result == 0)
        fill(&e);
    e.hook = note;
    e.hook_context = c;
    if (c->together && comm_agree(c->together, result, err) != 0)
        result = -1;
    for (int i = 0; i < p.n_programs && result == 0; i++)
        result = time_program(c, &e, i, budget_s / p.n_programs, err);
    exec_free(&e);
    plan_free(&p);
    if (b.close)
        b.close(&b);
    c->plan = NULL;
    return result;
}

static int describe(const struct size *z, struct hf_config *c, struct err *err)
{
    if (hf_config_named(c, "opt-tiny", err) != 0)
        return -1;
    c->hidden_size = c->word_embed_proj_dim = z->C;
    c->n_layers = z->L;
    c->n_heads = z->C / 64;
    c->ffn_dim = 4 * z->C;
    c->vocab_size = z->V;
    return 0;
}

/* The words of a run at one size; techniques are set later. */
static void set_spec(struct spec *s, const struct size *z)
{
    s->model = "";
    s->train_batch = s->eval_batch = z->B;
    s->max_seq_len = z->T;
    s->accumulation = 1;
}

union any_spec {
    struct spec one;
    struct ppo_spec four;
};

static const struct run_form *open_spec(union any_spec *s, const struct phase *phase, const struct size *z,
                                        struct err *err)
{
    struct option_set sets[128];
    const bool four = strcmp(phase->name, "ppo") == 0;

    *s = (union any_spec){ 0 };
    option_defaults(sets, four ? ppo_spec_sets(&s->four, sets) : spec_sets(&s->one, phase, sets));
    set_spec(&s->one, z);
    if (!four)
        return &run_batches;
    s->one.max_seq_len = z->T / 2;
    s->four.max_answer = z->T / 2;
    s->four.generation_batch = z->B;
    s->four.frozen = FROZEN_AS_RUN;
    s->four.critic = "";
    return ppo_spec_complete(&s->four, err) == 0 ? &run_ppo : NULL;
}

static void set_techniques(union any_spec *s, bool four, const struct technique_values *v)
{
    s->one.techniques = *v;
    if (four)
        s->four.actor = s->four.critic_techniques = *v;
}

/* Off; all exact ones; all with which every weight learns; and where `all_of_them`, each that changes numbers alone, beside the exact ones or without. False
 * after the last. */
static bool choose(struct technique_values *v, int which, bool all_of_them)
{
    int n = 3;

    for (int i = 0; techniques[i]; i++)
        technique_choose(v, i,
                         which > 0 && which < 3 && technique_ways(i) > 0 &&
                                 (which == 2 ? !techniques[i]->freezes : techniques[i]->exact)
                             ? 0
                             : -1);
    if (which < 3)
        return true;
    for (int i = 0; techniques[i] && all_of_them; i++)
        for (int exact = 0; exact < 2 && !techniques[i]->exact && technique_ways(i) > 0; exact++)
            if (n++ == which) {
                for (int k = 0; techniques[k] && exact; k++)
                    technique_choose(v, k, techniques[k]->exact && technique_ways(k) > 0 ? 0 : -1);
                technique_choose(v, i, 0);
                return true;
            }
    return false;
}

static int time_phase(struct collector *c, const struct phase *phase, const struct size *z, struct err *err)
{
    struct run_model models[RUN_MAX_MODELS] = { 0 };
    struct technique_values v;
    union any_spec s;
    const struct run_form *form = open_spec(&s, phase, z, err);
    int result = form ? 0 : -1;

    const int n = form ? form->models(&s.one, true, models) : 0;
    for (int i = 0; i < n && result == 0; i++)
        result = describe(z, &models[i].config, err);
    const struct run_facts alone = {
        .ranks = 1, .trains = true, .pairs = phase->samples == SAMPLE_PAIR, .dropout = models[0].config.dropout
    };
    for (int which = 0; result == 0 && choose(&v, which, z->all && c->ranks == 1); which++) {
        for (int i = 0; techniques[i]; i++) { /* what one rank, such a model or the others cannot do */
            const struct run_facts facts = technique_facts(&v, &alone);
            if (techniques[i]->check && techniques[i]->check(v.slot[i], &facts, err) != 0)
                technique_choose(&v, i, -1);
        }
        technique_choose(&v, technique_find("offload"), -1); /* pieces of files are the disk's figure */
        set_techniques(&s, form == &run_ppo, &v);
        result = time_plan(c, form, &s.one, models, z->budget_s, err);
    }
    for (int i = 0; i < n; i++)
        hf_config_free(&models[i].config);
    return result;
}

static int time_all(struct collector *c, struct err *err)
{
    static const struct phase *const phases[] = { &phase_sft, &phase_ppo, &phase_reward };

    for (int i = 0; i < (c->quick ? 1 : COUNT_OF(sizes)); i++) {
        const int n = c->ranks > 1 ? sizes[i].pair_phases : sizes[i].phases;

        for (int k = 0; k < n && k < COUNT_OF(phases); k++) {
            log_progress("timing ops%s: size %d of %d, %s", c->ranks > 1 ? " of two ranks" : "", i + 1, COUNT_OF(sizes),
                         phases[k]->name);
            if (time_phase(c, phases[k], &sizes[i], err) != 0)
                return -1;
        }
    }
    log_progress("%s", "");
    return c->failed ? err_set(err, ERR_MEMORY, "no memory for timings") : 0;
}

/* Behind those that are there. */
static int add_samples(struct profile *p, const struct profile_sample *samples, int n, struct err *err)
{
    struct profile_sample *grown = mem_resize(p->samples, (int64_t)p->n_samples + n, sizeof *grown, MEM_PLAN, err);

    if (!grown)
        return -1;
    p->samples = grown;
    memcpy(&grown[p->n_samples], samples, (size_t)n * sizeof *samples);
    p->n_samples += n;
    return 0;
}

static int take_samples(struct profile *p, struct collector *c, struct err *err)
{
    int result = 0;

    for (int i = 0; i < c->n && result == 0; i++) {
        c->items[i].sample.seconds = lower_quartile(c->items[i].seconds, c->items[i].n);
        result = add_samples(p, &c->items[i].sample, 1, err);
    }
    return result;
}

/* ---- figures ---- */

static void set(struct profile *p, enum profile_figure f, double value, const char *source)
{
    p->figures[f].value = value;
    snprintf(p->figures[f].source, sizeof p->figures[f].source, "%s", source);
}

/* Highest rate of products in one type. */
static double best_rate(const struct profile *p, int type, bool int8)
{
    double best = 0;

    for (int i = 0; i < p->n_samples; i++) {
        const struct profile_sample *s = &p->samples[i];
        if (s->ranks == 1 && op_rule((enum op)s->op)->matmul && (s->op == OP_LINEAR_Q8) == int8 &&
            (int8 || s->type == type))
            best = fmax(best, s->flops / s->seconds);
    }
    return best;
}

static void set_peaks(struct profile *p)
{
    const double fp32 = best_rate(p, PROFILE_FP32, false), bf16 = best_rate(p, PROFILE_BF16, false);
    const double int8 = best_rate(p, 0, true);

    set(p, PROFILE_FP32_FLOPS, fp32, "measured: the fastest product with weights");
    set(p, PROFILE_BF16_FLOPS, bf16 > 0 ? bf16 : fp32, "measured: the fastest product with weights");
    set(p, PROFILE_INT8_FLOPS, int8 > 0 ? int8 : fp32, "measured: the fastest product with int8 weights");
}

/* Median efficiency of a class of ops, for ops without samples. */
static void set_efficiency(struct profile *p, enum profile_figure f, bool matmul, bool flops)
{
    double x[PROFILE_MAX_SAMPLES];
    int n = 0;

    for (int i = 0; i < p->n_samples; i++) {
        const struct profile_sample *s = &p->samples[i];
        const struct op_rule *rule = op_rule((enum op)s->op);
        const double roof = fmax(s->flops / p->figures[PROFILE_FP32_FLOPS + s->type].value,
                                 s->bytes / p->figures[PROFILE_BANDWIDTH].value);
        if (s->ranks == 1 && rule->matmul == matmul && (rule->flops != NULL) == flops)
            x[n++] = roof / s->seconds;
    }
    set(p, f, n ? median(x, n) : 0.5, n ? "measured: the median of the samples" : "assumed");
}

static void measure_bandwidth(struct profile *p, int threads)
{
    const int64_t n = (int64_t)24 << 20;
    struct err err;
    double best_s = INFINITY;
    float *a = mem_array(n, 3, sizeof *a, MEM_OTHER, &err);

    for (int round = 0; a && round < 6; round++) {
        const double start_s = clock_seconds();
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t i = 0; i < n; i++)
            a[i] = a[n + i] + 0.5F * a[2 * n + i];
        if (round > 0)
            best_s = fmin(best_s, clock_seconds() - start_s);
    }
    set(p, PROFILE_BANDWIDTH, a ? 12.0 * (double)n / best_s : 1e10,
        a ? "measured: a = b + s c over 288 MiB" : "assumed: no memory to measure it");
    mem_free(a);
}

static void measure_overhead(struct profile *p, int threads)
{
    const int n = 2000;
    double best_s = INFINITY;
    volatile int sink = 0;

    for (int round = 0; round < 5; round++) {
        const double start_s = clock_seconds();
        for (int i = 0; i < n; i++) {
#pragma omp parallel num_threads(threads)
            if (omp_get_thread_num() < 0)
                sink = i;
        }
        best_s = fmin(best_s, (clock_seconds() - start_s) / n);
    }
    (void)sink;
    set(p, PROFILE_OP_OVERHEAD, best_s, "measured: an empty parallel region");
}

static int measure_host(struct profile *p, struct err *err)
{
    const int64_t V = 16384;
    const struct sampler_options o = { .temperature = 1, .top_p = 1, .seed = 1 };
    struct sampler s;
    int32_t id;
    float logprob, entropy;
    float *logits = mem_array(V, 1, sizeof *logits, MEM_OTHER, err);

    if (!logits || sampler_init(&s, &o, V, err) != 0) {
        mem_free(logits);
        return -1;
    }
    set_values(logits, V, 3);
    int result = 0, n = 0;
    const double start_s = clock_seconds();
    for (; result == 0 && clock_seconds() - start_s < 0.1; n++) {
        result = sampler_pick(&s, logits, n, 0, -1, &id, err);
        sampler_describe(logits, V, id, &logprob, &entropy);
    }
    set(p, PROFILE_HOST_BANDWIDTH, 4.0 * (double)V * n / (clock_seconds() - start_s),
        "measured: a draw from logits and its entropy, one thread");
    sampler_free(&s);
    mem_free(logits);
    return result;
}

/* Written, synced, dropped from the cache, read again: the slower way counts. */
static int time_disk(const char *path, double *rate, struct err *err)
{
    const size_t bytes = (size_t)64 << 20, piece = (size_t)1 << 20;
    char *buffer = mem_array((int64_t)piece, 1, 1, MEM_OTHER, err);
    const int fd = buffer ? open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    double write_s = clock_seconds(), read_s;
    bool ok = fd >= 0;

    for (size_t at = 0; ok && at < bytes; at += piece)
        ok = write(fd, buffer, piece) == (ssize_t)piece;
    ok = ok && fsync(fd) == 0;
    write_s = clock_seconds() - write_s;
    ok = ok && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0;
    read_s = clock_seconds();
    for (size_t at = 0; ok && at < bytes; at += piece)
        ok = pread(fd, buffer, piece, (off_t)at) == (ssize_t)piece;
    read_s = clock_seconds() - read_s;
    const int result = ok ? 0 : err_errno(err, "could not measure the disk with \"%s\"", path);
    if (fd >= 0)
        close(fd);
    mem_free(buffer);
    *rate = (double)bytes / fmax(fmax(write_s, read_s), 1e-6);
    return result;
}

static void measure_disk(struct profile *p, const char *folder)
{
    char path[FILE_PATH_MAX];
    struct err err;
    double rate = 0;

    if (file_join(path, folder, "profile-disk.tmp", &err) == 0 && time_disk(path, &rate, &err) == 0) {
        set(p, PROFILE_DISK_BANDWIDTH, rate, "measured: 64 MiB written and synced, and read again");
    } else {
        log_warning("%s", err.what);
        set(p, PROFILE_DISK_BANDWIDTH, 2e8, "assumed: it could not be measured");
    }
    unlink(path);
}

static void set_link(struct profile *p, int n_cpus)
{
    static const char source[] = "assumed: no two ranks could be started";

    set(p, PROFILE_LINK_BANDWIDTH, p->figures[PROFILE_BANDWIDTH].value / 8, source);
    set(p, PROFILE_LINK_LATENCY, 5e-6, source);
    set(p, PROFILE_NODE_RANKS, n_cpus, "a rank a processor at most");
    set(p, PROFILE_NETWORK_BANDWIDTH, 1.2e8, "assumed: 1 Gb/s Ethernet");
    set(p, PROFILE_NETWORK_LATENCY, 5e-5, "assumed: 1 Gb/s Ethernet");
}

/* Joules since the counter's start; NAN where nothing counts. */
static double joules(const struct energy_meter *m)
{
    struct energy_result e = { .joules = NAN };

    if (m)
        energy_read((struct energy_meter *)m, &e);
    return e.state == METER_MEASURED ? e.joules : NAN;
}

static void set_power(struct profile *p, double idle_w, double busy_w, int n_cpus)
{
    if (isfinite(idle_w) && isfinite(busy_w) && busy_w > idle_w) {
        set(p, PROFILE_STATIC_POWER, idle_w, "measured: the counters of this machine while it waited");
        set(p, PROFILE_DYNAMIC_POWER, busy_w - idle_w, "measured: the same while ops were timed, less that");
        return;
    }
    set(p, PROFILE_STATIC_POWER, 0.6 * n_cpus, "assumed: no counter; 3 W a processor, a fifth of it idle");
    set(p, PROFILE_DYNAMIC_POWER, 2.4 * n_cpus, "assumed: no counter; 3 W a processor, a fifth of it idle");
}

static void set_identity(struct profile *p, const struct machine *m)
{
    snprintf(p->name, sizeof p->name, "local");
    snprintf(p->cpu, sizeof p->cpu, "%s", m->cpu);
    p->cpus = m->n_cpus;
    p->memory_gib = memory_gib(m);
    p->shared = true;
    snprintf(p->describe, sizeof p->describe, "%.90s, %d CPUs, %d GiB", m->cpu[0] ? m->cpu : "an unnamed processor",
             m->n_cpus, (int)memory_gib(m));
    set(p, PROFILE_MEMORY, m->memory_bytes > 0 ? (double)m->memory_bytes : 1e9,
        m->memory_bytes > 0 ? "measured: /proc/meminfo" : "assumed: /proc/meminfo cannot be read");
}

/* together: ranks that do the same at the same time; NULL: one alone. */
static int time_ops(struct profile *p, struct comm *together, int threads, bool quick, struct err *err)
{
    struct collector c = {
        .ranks = together ? together->local_ranks : 1, .threads = threads, .together = together, .quick = quick
    };
    int result = time_all(&c, err);

    if (result == 0)
        result = take_samples(p, &c, err);
    mem_free(c.items);
    return result;
}

/* The watts while ops are timed are those at the peaks, near enough: the mean over a mix of ops. */
static int measure_ops(struct profile *p, int threads, bool quick, int n_cpus, struct err *err)
{
    struct energy_meter *meter = NULL;
    struct err ignored;
    double idle_w = NAN;

    if (energy_start(&meter, &ignored) != 0)
        meter = NULL;
    if (isfinite(joules(meter))) {
        const double before = joules(meter), start_s = clock_seconds();
        usleep((useconds_t)(IDLE_S * 1e6));
        idle_w = (joules(meter) - before) / (clock_seconds() - start_s);
    }
    const double before = joules(meter), start_s = clock_seconds();
    const int result = time_ops(p, NULL, threads, quick, err);
    set_power(p, idle_w, (joules(meter) - before) / (clock_seconds() - start_s), n_cpus);
    energy_stop(meter);
    return result;
}

/* What two ranks found; they may have failed. */
static int add_pair(struct profile *p, const struct profile *pair, struct err *err)
{
    for (int f = PROFILE_LINK_BANDWIDTH; pair && f <= PROFILE_LINK_LATENCY; f++)
        p->figures[f] = pair->figures[f];
    return pair ? add_samples(p, pair->samples, pair->n_samples, err) : 0;
}

int calibrate_measure(struct profile *p, const struct calibrate_options *o, const struct profile *pair, struct err *err)
{
    const struct spec s = { .threads = o->threads };
    struct machine m;

    *p = (struct profile){ 0 };
    machine_read(&m);
    set_identity(p, &m);
    const int threads = setup_threads(&s, 1);
    p->threads = threads;
    measure_bandwidth(p, threads);
    measure_overhead(p, threads);
    measure_disk(p, o->folder);
    set_link(p, m.n_cpus);
    if (measure_host(p, err) != 0 || measure_ops(p, threads, o->quick, m.n_cpus, err) != 0 ||
        add_pair(p, pair, err) != 0) {
        profile_free(p);
        return -1;
    }
    set_peaks(p);
    set_efficiency(p, PROFILE_MATMUL_EFFICIENCY, true, true);
    set_efficiency(p, PROFILE_ATTENTION_EFFICIENCY, false, true);
    set_efficiency(p, PROFILE_OTHER_EFFICIENCY, false, false);
    if (profile_check(p, "(measured)", err) == 0)
        return 0;
    profile_free(p);
    return -1;
}

/* ---- without a measurement ---- */

static void assume(struct profile *p, const struct machine *m)
{
    static const char source[] = "assumed from instruction sets and processors: `tuneup doctor --profile` measures";
    const double cpus = m->n_cpus, fp32 = (m->avx512 ? 50e9 : m->avx2 ? 30e9 : 4e9) * cpus;
    const double bf16 = m->amx_bf16 ? 10 * fp32 : m->avx512_bf16 ? 1.5 * fp32 : 0.5 * fp32;

    *p = (struct profile){ 0 };
    set_identity(p, m);
    set(p, PROFILE_FP32_FLOPS, fp32, source);
    set(p, PROFILE_BF16_FLOPS, bf16, source);
    set(p, PROFILE_INT8_FLOPS, fp32, source);
    set(p, PROFILE_BANDWIDTH, fmin(10e9 * cpus, 100e9), source);
    set(p, PROFILE_DISK_BANDWIDTH, 2e8, source);
    set(p, PROFILE_OP_OVERHEAD, 5e-6, source);
    set(p, PROFILE_HOST_BANDWIDTH, 3e8, source);
    set(p, PROFILE_MATMUL_EFFICIENCY, 0.6, source);
    set(p, PROFILE_ATTENTION_EFFICIENCY, 0.3, source);
    set(p, PROFILE_OTHER_EFFICIENCY, 0.8, source);
    set_link(p, m->n_cpus);
    set_power(p, NAN, NAN, m->n_cpus);
}

int calibrate_local_or_assumed(struct profile *p, struct err *err)
{
    char why[640];
    struct machine m;
    const int there = calibrate_local(p, why, sizeof why, err);

    if (there < 0)
        return -1;
    if (there > 0)
        return 0;
    log_note("%s; until then predictions rest on assumptions", why);
    machine_read(&m);
    assume(p, &m);
    return profile_check(p, "(assumed)", err);
}

/* ---- collectives ---- */

/* Seconds of one all-reduce of n floats, the least of several. */
static double time_all_reduce(struct comm *c, float *x, int64_t n, int rounds, struct err *err)
{
    double best_s = INFINITY;

    for (int i = 0; i < rounds; i++) {
        if (c->barrier(c, err) != 0)
            return NAN;
        const double start_s = clock_seconds();
        if (c->all_reduce(c, x, n, F32, err) != 0)
            return NAN;
        best_s = fmin(best_s, clock_seconds() - start_s);
    }
    return best_s;
}

static int time_link(struct comm *c, struct profile *p, struct err *err)
{
    static const char source[] = "measured: an all-reduce of two ranks here";
    const int64_t n = (int64_t)4 << 20;
    float *x = mem_array(n, 1, sizeof *x, MEM_OTHER, err);

    if (!x)
        return -1;
    const double small_s = time_all_reduce(c, x, 1, 200, err), large_s = time_all_reduce(c, x, n, 8, err);
    const double sent = 2.0 * (c->ranks - 1) / c->ranks * 4.0 * (double)n;
    mem_free(x);
    if (!isfinite(small_s) || !isfinite(large_s))
        return -1;
    set(p, PROFILE_LINK_LATENCY, small_s / (2.0 * (c->ranks - 1)), source);
    set(p, PROFILE_LINK_BANDWIDTH, sent / fmax(large_s - small_s, 1e-9), source);
    return 0;
}

/* Both do the same at the same time, as ranks of a run do. */
static int time_pair(struct comm *c, struct profile *p, bool quick, struct err *err)
{
    const struct spec s = { 0 };

    if (c->ranks < 2)
        return err_set(err, ERR_USAGE, "what ranks do at the same time is timed with two of them, this is one");
    if (time_link(c, p, err) != 0)
        return -1;
    return time_ops(p, c, setup_threads(&s, c->local_ranks), quick, err);
}

int calibrate_pair(const char *path, bool quick, struct err *err)
{
    struct machine m;
    struct profile p;
    struct comm c;

    if (comm_open(&c, err) != 0)
        return -1;
    log_set(log_level(), c.rank == 0);
    machine_read(&m);
    assume(&p, &m);
    int result = time_pair(&c, &p, quick, err);
    if (result == 0 && c.rank == 0)
        result = profile_save(&p, path, err);
    result = comm_agree(&c, result, err);
    c.close(&c);
    profile_free(&p);
    return result;
}
