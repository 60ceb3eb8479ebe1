/* An op's samples lie in the plane of log flops and log bytes; at a size between them its efficiency is their mean, each
 * weighed by the inverse fourth power of its distance (Shepard 1968, doi 10.1145/800186.810616), so that near a sample it is
 * that sample's, and far outside it stays what the nearest had. */
#include "plan/predict.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

#define NEAR 0.01 /* squared distance, in doublings, below which samples are one */

enum profile_type predict_type(const struct plan *p, const struct op_step *s)
{
    for (int k = 0; k < OP_MAX_IN; k++)
        if (s->in[k] >= 0 && p->buffers[s->in[k]].dtype == BF16)
            return PROFILE_BF16;
    for (int k = 0; k < OP_MAX_OUT; k++)
        if (s->out[k] >= 0 && p->buffers[s->out[k]].dtype == BF16)
            return PROFILE_BF16;
    return PROFILE_FP32;
}

static double roofline(const struct predictor *m, double flops, double bytes, int type)
{
    return fmax(flops / m->flops[type], bytes / m->bandwidth);
}

/* ---- opening ---- */

/* What one of several ranks on a machine has of its peaks; threads: of each, 0: its part of the processors. Peaks may have been
 * reached by fewer threads than there are processors. */
static double share_of(const struct profile *p, int ranks, int threads)
{
    const double part = (double)p->cpus / ranks, own = threads > 0 && threads < part ? threads : part;

    if (p->cpus == 0)
        return 1.0 / ranks;
    return own / (double)(p->threads > 0 ? p->threads : p->cpus);
}

static void set_rates(struct predictor *m, const struct profile *p, int ranks, int local, int threads)
{
    const struct profile_value *f = p->figures;
    const bool one_node = p->shared ? ranks == local : ranks <= f[PROFILE_NODE_RANKS].value;

    m->sharing = p->shared ? local : 1;
    m->machines = ranks / m->sharing;
    for (int t = 0; t < PROFILE_TYPES; t++)
        m->flops[t] = f[PROFILE_FP32_FLOPS + t].value * share_of(p, m->sharing, threads);
    m->bandwidth = f[PROFILE_BANDWIDTH].value / m->sharing;
    m->link_bandwidth = f[one_node ? PROFILE_LINK_BANDWIDTH : PROFILE_NETWORK_BANDWIDTH].value;
    m->link_latency = f[one_node ? PROFILE_LINK_LATENCY : PROFILE_NETWORK_LATENCY].value;
    m->overhead = f[PROFILE_OP_OVERHEAD].value;
    m->host_bandwidth = f[PROFILE_HOST_BANDWIDTH].value;
    m->disk_bandwidth = f[PROFILE_DISK_BANDWIDTH].value / m->sharing;
    m->matmul = f[PROFILE_MATMUL_EFFICIENCY].value;
    m->attention = f[PROFILE_ATTENTION_EFFICIENCY].value;
    m->other = f[PROFILE_OTHER_EFFICIENCY].value;
    m->static_power = f[PROFILE_STATIC_POWER].value;
    m->dynamic_power = f[PROFILE_DYNAMIC_POWER].value;
}

/* How much longer the sample took than the roofline of its rank's share. */
static struct predict_point point_of(const struct profile *p, const struct profile_sample *s)
{
    const double share = share_of(p, s->ranks, s->threads);
    const double roof = fmax(s->flops / p->figures[PROFILE_FP32_FLOPS + s->type].value / share,
                             s->bytes / p->figures[PROFILE_BANDWIDTH].value * s->ranks);

    return (struct predict_point){ log2(1 + s->flops), log2(s->bytes), log(s->seconds / roof), s->type };
}

/* Samples are there of some numbers of ranks: the nearest. */
static int nearest_ranks(const struct profile *p, int sharing)
{
    int best = 1;
    double apart = INFINITY;

    for (int i = 0; i < p->n_samples; i++) {
        const double d = fabs(log((double)p->samples[i].ranks / sharing));
        if (d < apart) {
            apart = d;
            best = p->samples[i].ranks;
        }
    }
    return best;
}

int predict_open(struct predictor *m, const struct profile *p, int ranks, int local, int threads, struct err *err)
{
    int n = 0;

    *m = (struct predictor){ .profile = p };
    set_rates(m, p, ranks, local, threads);
    m->points = mem_array(p->n_samples, 1, sizeof *m->points, MEM_PLAN, err);
    if (!m->points)
        return -1;
    const int of_ranks = nearest_ranks(p, m->sharing);
    for (int op = 0; op < OP_N; op++) {
        m->first[op] = n;
        m->fastest[op] = INFINITY;
        for (int i = 0; i < p->n_samples; i++)
            if (p->samples[i].op == op && p->samples[i].ranks == of_ranks) {
                m->points[n++] = point_of(p, &p->samples[i]);
                m->fastest[op] = fmin(m->fastest[op], p->samples[i].seconds);
            }
    }
    m->first[OP_N] = n;
    return 0;
}

void predict_close(struct predictor *m)
{
    mem_free(m->points);
    *m = (struct predictor){ 0 };
}

/* ---- one step ---- */

static double class_seconds(const struct predictor *m, enum op op, double roof)
{
    if (op_rule(op)->matmul)
        return m->overhead + roof / m->matmul;
    return m->overhead + roof / (op_rule(op)->flops ? m->attention : m->other);
}

/* By the op's samples of this type; of any type where it has none. */
static double op_seconds(const struct predictor *m, enum op op, int type, double flops, double bytes)
{
    const double x = log2(1 + flops), y = log2(fmax(bytes, 1)), roof = roofline(m, flops, bytes, type);
    double sum = 0, weights = 0;

    for (int any = 0; any < 2 && weights == 0; any++)
        for (int i = m->first[op]; i < m->first[op + 1]; i++) {
            const struct predict_point *q = &m->points[i];
            const double dx = x - q->log_flops, dy = y - q->log_bytes, d = dx * dx + dy * dy + NEAR;
            if (!any && q->type != type)
                continue;
            sum += q->log_slowdown / (d * d);
            weights += 1 / (d * d);
        }
    return weights > 0 ? fmax(roof * exp(sum / weights), m->fastest[op]) : class_seconds(m, op, roof);
}

static double messages(const struct plan *p, const struct op_step *s)
{
    if (s->op == OP_WAIT) /* it has no output: what it waits for was counted where it began */
        return 0;
    const struct buffer *b = &p->buffers[s->out[0]];
    const double n = s->attrs.count > 0 ? (double)s->attrs.count : (double)shape_count(&b->shape);
    const double each = s->attrs.bucket > 0 ? (double)s->attrs.bucket : n;
    const double rounds = p->ranks - 1;

    return ceil(n / each) * rounds * (s->op == OP_ALL_REDUCE ? 2 : 1);
}

static void add_step(const struct predictor *m, const struct plan *p, const struct op_step *s,
                     const struct op_cost *cost, struct prediction *out)
{
    const int type = predict_type(p, s);
    double seconds;

    out->flops += cost->flops;
    out->bytes_moved += cost->bytes_moved;
    out->comm_bytes += cost->comm_bytes;
    if (op_moves_files(s->op))
        return;
    if (op_is_collective(s->op)) {
        seconds = p->ranks == 1 ? 0 : cost->comm_bytes / m->link_bandwidth + messages(p, s) * m->link_latency;
        out->communication_s += seconds;
    } else {
        seconds = op_seconds(m, s->op, type, cost->flops, cost->bytes_moved);
        out->busy_s += fmin(seconds, cost->flops / m->flops[type] + cost->bytes_moved / m->bandwidth);
    }
    out->seconds += seconds;
}

/* What the host reads of the logits that a program gives back. */
static double host_seconds(const struct predictor *m, const struct plan *p, const struct program *g, int64_t B)
{
    const struct op_step *last = g->n_steps ? &g->steps[g->n_steps - 1] : NULL;
    const int out = last ? last->out[0] : -1;

    if (out < 0 || !p->buffers[out].input || p->buffers[out].shape.rank != 2)
        return 0;
    return (double)(B * p->buffers[out].shape.dim[1]) * (double)dtype_bytes(p->buffers[out].dtype) / m->host_bandwidth;
}

void predict_program(const struct predictor *m, const struct plan *p, int program, const struct plan_extents *x,
                     struct prediction *out)
{
    const struct program *g = &p->programs[program];
    const double before_s = out->seconds;
    double files_s = 0;

    for (int i = 0; i < g->n_steps; i++) {
        const struct op_cost cost = cost_step(p, g, &g->steps[i], x);
        add_step(m, p, &g->steps[i], &cost, out);
        files_s += cost.file_bytes / m->disk_bandwidth;
    }
    out->seconds = fmax(out->seconds, before_s + files_s);
    const double host_s = host_seconds(m, p, g, x->B > 0 ? x->B : g->B);
    out->host_s += host_s;
    out->seconds += host_s;
    out->joules = m->machines * (m->static_power * out->seconds + m->dynamic_power * out->busy_s);
}

struct prediction predict_update(const struct predictor *m, const struct plan *p)
{
    struct prediction all = { 0 };

    for (int i = 0; i < p->n_programs; i++) {
        struct prediction one = { 0 };
        const double times = p->programs[i].times;
        if (times == 0)
            continue;
        predict_program(m, p, i, &p->programs[i].usual, &one);
        all.seconds += times * one.seconds;
        all.communication_s += times * one.communication_s;
        all.host_s += times * one.host_s;
        all.joules += times * one.joules;
        all.busy_s += times * one.busy_s;
        all.flops += times * one.flops;
        all.bytes_moved += times * one.bytes_moved;
        all.comm_bytes += times * one.comm_bytes;
    }
    return all;
}
