/* Prefill stops before each row's last id: the first decode step feeds that one, and so gives the first logits. Columns that
 * prefill writes behind a shorter row's end hold nothing of use; decode writes each before any query sees it. The programs work
 * on slots: where a row has ended, the last slot's row takes its place, caches and all, so only rows that go on are computed. */
#include "phases/generate.h"

#include <inttypes.h>
#include <string.h>

#include "base/mem.h"

#define HIDDEN_POSITION 1 /* the position row of columns that no query sees */
#define FIRST_POSITION 2

static const struct phase_program programs[] = {
    { "", "prefill", false, EXTENTS_PREFILL, opt_prefill },
    { "", "decode", false, EXTENTS_DECODE, opt_decode },
    { 0 },
};

const struct phase phase_generate = { .name = "generate", .programs = programs };

/* The caches' columns are in the plan: the second dimension of what the first attention writes. */
static int64_t cache_columns(const struct plan *p, int program)
{
    const struct program *g = &p->programs[program];

    for (int i = 0; i < g->n_steps; i++)
        if (g->steps[i].op == OP_KV_ATTENTION)
            return p->buffers[g->steps[i].out[1]].shape.dim[1];
    return 0;
}

static int allocate_result(struct generated *r, int64_t B, int64_t S, bool describe, struct err *err)
{
    *r = (struct generated){ .S = S };
    r->ids = mem_array(B, S, sizeof *r->ids, MEM_BATCH, err);
    r->begin = mem_array(B, 1, sizeof *r->begin, MEM_BATCH, err);
    r->prompt_end = mem_array(B, 1, sizeof *r->prompt_end, MEM_BATCH, err);
    r->end = mem_array(B, 1, sizeof *r->end, MEM_BATCH, err);
    r->ended = mem_array(B, 1, sizeof *r->ended, MEM_BATCH, err);
    if (!r->ids || !r->begin || !r->prompt_end || !r->end || !r->ended)
        return -1;
    if (!describe)
        return 0;
    r->logprobs = mem_array(B, S, sizeof *r->logprobs, MEM_BATCH, err);
    r->entropies = mem_array(B, S, sizeof *r->entropies, MEM_BATCH, err);
    return r->logprobs && r->entropies ? 0 : -1;
}

int generator_init(struct generator *out, struct exec *e, const char *model, const struct generate_options *o,
                   struct err *err)
{
    const struct plan *p = e->plan;
    struct generator g = {
        .options = *o,
        .exec = e,
        .prefill = plan_find_program(p, model, "prefill"),
        .decode = plan_find_program(p, model, "decode"),
        .gather = plan_find_program(p, model, "gather"),
        .quantize = plan_find_program(p, model, "quantize"),
        .ids = exec_buffer(e, "ids"),
        .positions = exec_buffer(e, "positions"),
        .spans = exec_buffer(e, "spans"),
        .at = exec_buffer(e, "at"),
        .logits = exec_buffer(e, "logits"),
    };
    const struct buffer *logits = &p->buffers[plan_find(p, "logits")];

    *out = (struct generator){ 0 };
    MUST(g.prefill >= 0 && g.decode >= 0 && logits->dtype == F32);
    g.together = plan_sends(p, g.prefill) || plan_sends(p, g.decode);
    g.B = p->programs[g.decode].B;
    g.P = p->programs[g.prefill].T;
    g.S = cache_columns(p, g.decode);
    g.V = logits->shape.dim[1];
    g.rows = mem_array(g.B, 1, sizeof *g.rows, MEM_BATCH, err);
    if (!g.rows || sampler_init(&g.sampler, &o->sampling, g.V, err) != 0 ||
        allocate_result(&g.result, g.B, g.S, o->describe, err) != 0) {
        generator_free(&g);
        return -1;
    }
    *out = g;
    return 0;
}

void generator_free(struct generator *g)
{
    struct generated *r = &g->result;

    mem_free(g->rows);
    sampler_free(&g->sampler);
    mem_free(r->ids);
    mem_free(r->begin);
    mem_free(r->prompt_end);
    mem_free(r->end);
    mem_free(r->ended);
    mem_free(r->logprobs);
    mem_free(r->entropies);
    *g = (struct generator){ 0 };
}

static int check_prompts(const struct generator *g, const struct prompts *p, struct err *err)
{
    MUST(p->B >= 1 && p->B <= g->B && g->options.max_new_tokens >= 1 && (p->n_cached == 0 || p->B == 1));
    for (int64_t b = 0; b < p->B; b++) {
        if (p->begin[b] < 0 || p->end[b] <= p->begin[b] || p->end[b] > p->P)
            return err_set(err, ERR_USAGE, "prompt %" PRId64 " is empty", b);
        if (p->end[b] < g->S)
            continue;
        err_set(err, ERR_USAGE, "prompt %" PRId64 " leaves no room for an answer", b);
        return err_hint(err, "It ends in column %d of %" PRId64 ".", p->end[b], g->S);
    }
    return 0;
}

static void start_result(struct generator *g, const struct prompts *p)
{
    struct generated *r = &g->result;

    r->B = g->n_slots = p->B;
    for (int64_t b = 0; b < p->B; b++) {
        g->rows[b] = (int32_t)b;
        int32_t *row = r->ids + b * r->S;
        for (int64_t s = 0; s < r->S; s++)
            row[s] = s >= p->begin[b] && s < p->end[b] ? p->ids[b * p->P + s] : g->options.pad_id;
        r->begin[b] = p->begin[b];
        r->prompt_end[b] = r->end[b] = p->end[b];
        r->ended[b] = false;
    }
}

static int32_t position_of(const struct generated *r, int64_t b, int64_t column)
{
    const bool seen = column >= r->begin[b] && column < r->end[b];

    return seen ? (int32_t)(column - r->begin[b] + FIRST_POSITION) : HIDDEN_POSITION;
}

/* Columns first .. first+T-1 of all rows through the trunk, into the caches. */
static int prefill_columns(struct generator *g, int64_t first, int64_t T, struct err *err)
{
    const struct generated *r = &g->result;
    const struct run_context c = { .B = r->B, .T = T, .row_step = 1 };

    for (int64_t b = 0; b < r->B; b++) {
        for (int64_t t = 0; t < T; t++) {
            g->ids[b * T + t] = r->ids[b * r->S + first + t];
            g->positions[b * T + t] = position_of(r, b, first + t);
        }
        g->spans[2 * b] = r->begin[b];
        g->spans[2 * b + 1] = r->end[b];
        g->at[b] = (int32_t)first;
    }
    return exec_run(g->exec, g->prefill, &c, err);
}

/* Does any rank go on? Of ranks that each work alone only this one counts. */
static int any_goes_on(const struct generator *g, bool own, struct err *err)
{
    struct comm *comm = g->exec->comm;
    double sum = own ? 1 : 0;

    if (g->together && comm->all_reduce(comm, &sum, 1, F64, err) != 0)
        return -1;
    return sum > 0;
}

/* Ranks that have no columns left while others do fill their first one again. */
static int prefill(struct generator *g, int64_t n_cached, struct err *err)
{
    int64_t last = 0, first = n_cached;
    int more;

    for (int64_t b = 0; b < g->result.B; b++)
        last = g->result.end[b] - 1 > last ? g->result.end[b] - 1 : last;
    while ((more = any_goes_on(g, first < last, err)) > 0) {
        const int64_t left = last - first, T = left < g->P ? left : g->P;
        if (prefill_columns(g, left > 0 ? first : 0, left > 0 ? T : 1, err) != 0)
            return -1;
        first += left > 0 ? T : 0;
    }
    return more;
}

/* What the programs read of the weights is made; again whenever the weights have moved, or lie where other programs work. */
static int make_weights(struct generator *g, struct err *err)
{
    const struct run_context c = { .B = 1, .T = 1, .row_step = 1 };

    if (g->gather >= 0 && exec_run(g->exec, g->gather, &c, err) != 0)
        return -1;
    if (g->quantize < 0 || (g->quantized && !g->options.weights_move))
        return 0;
    g->quantized = true;
    return exec_run(g->exec, g->quantize, &c, err);
}

static bool goes_on(const struct generator *g, int64_t b)
{
    const struct generated *r = &g->result;

    return !r->ended[b] && r->end[b] - r->prompt_end[b] < g->options.max_new_tokens && r->end[b] < r->S;
}

/* The logits that follow the last id of each slot's row. A rank whose rows have all ended, while those of others have not,
 * makes those of the first slot again. */
static int decode(struct generator *g, struct err *err)
{
    const struct generated *r = &g->result;
    const struct run_context c = { .B = g->n_slots > 0 ? g->n_slots : 1, .T = 1, .row_step = 1 };

    for (int64_t s = 0; s < c.B; s++) {
        const int32_t b = g->rows[s], column = r->end[b] - 1;
        g->ids[s] = r->ids[b * r->S + column];
        g->positions[s] = position_of(r, b, column);
        g->at[s] = column;
        g->spans[2 * s] = r->begin[b];
        g->spans[2 * s + 1] = r->end[b];
    }
    return exec_run(g->exec, g->decode, &c, err);
}

/* The columns of a row in every cache, from slot to slot. */
static void move_columns(struct generator *g, int64_t to, int64_t from)
{
    const struct plan *p = g->exec->plan;
    const struct program *decode = &p->programs[g->decode];
    const int32_t b = g->rows[from], first = g->result.begin[b], n = g->result.end[b] - first;

    for (int i = 0; i < decode->n_steps; i++)
        for (int k = 1; decode->steps[i].op == OP_KV_ATTENTION && k <= 2; k++) {
            const struct buffer *cache = &p->buffers[decode->steps[i].out[k]];
            const size_t column = (size_t)cache->shape.dim[2] * dtype_bytes(cache->dtype);
            char *x = exec_address(g->exec, decode->steps[i].out[k]);
            memcpy(x + (size_t)(to * g->S + first) * column, x + (size_t)(from * g->S + first) * column,
                   (size_t)n * column);
        }
}

/* Closes the gaps that rows leave which do not go on. */
static void drop_rows(struct generator *g)
{
    for (int64_t s = 0; s < g->n_slots;) {
        if (goes_on(g, g->rows[s])) {
            s++;
            continue;
        }
        const int64_t last = --g->n_slots;
        if (s < last && goes_on(g, g->rows[last]))
            move_columns(g, s, last);
        g->rows[s] = g->rows[last];
    }
}

static int append(struct generator *g, const struct prompts *p, int64_t slot, struct err *err)
{
    struct generated *r = &g->result;
    const float *logits = g->logits + slot * g->V;
    const int32_t b = g->rows[slot];
    const int64_t n_new = r->end[b] - r->prompt_end[b], at = b * r->S + r->end[b];
    const int32_t forbidden = n_new < g->options.min_new_tokens ? g->options.end_id : -1;

    if (sampler_pick(&g->sampler, logits, p->rows ? p->rows[b] : b, n_new, forbidden, &r->ids[at], err) != 0)
        return -1;
    if (g->options.describe)
        sampler_describe(logits, g->V, r->ids[at], &r->logprobs[at], &r->entropies[at]);
    r->ended[b] = r->ids[at] == g->options.end_id;
    r->end[b]++;
    return 0;
}

int generator_run(struct generator *g, const struct prompts *p, struct err *err)
{
    int more = 0, any = 0;

    if (check_prompts(g, p, err) != 0)
        return -1;
    start_result(g, p);
    if (make_weights(g, err) != 0 || prefill(g, p->n_cached, err) != 0)
        return -1;
    for (int64_t step = 1; more == 0 && (any = any_goes_on(g, g->n_slots > 0, err)) > 0; step++) {
        if (decode(g, err) != 0)
            return -1;
        for (int64_t s = 0; s < g->n_slots; s++)
            if (append(g, p, s, err) != 0)
                return -1;
        drop_rows(g);
        if (g->options.hook)
            more = g->options.hook(g->options.hook_context, &g->result, step, err);
    }
    return more < 0 || any < 0 ? -1 : 0;
}
