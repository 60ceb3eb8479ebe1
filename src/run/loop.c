/* Runs of one model that learns from batches of samples: micro-batches until an update is due, the update, one small
 * all-reduce of what every rank must know (metrics, tokens, peak memory, has anyone been asked to stop), the record. What is
 * computed, the phase's table says. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "measure/clock.h"
#include "plan/print.h"
#include "run/run.h"
#include "run/stop.h"

/* ---- set up ---- */

static int models(const struct spec *s, bool trains, struct run_model *out)
{
    out[0] = (struct run_model){
        .prefix = "",
        .dir = s->model,
        .adapter = technique_text(&s->techniques, "lora_adapter"),
        .value_head = s->phase->value_head,
        .new_head = trains,
        .learns = trains,
    };
    return 1;
}

/* Rows that a record makes. */
static int64_t rows_each(const struct phase *p)
{
    return p->samples == SAMPLE_PAIR ? 2 : 1;
}

static int plan(const struct spec *s, const struct run_model *m, bool trains, int rank, int ranks,
                const struct run_live *live, struct plan *p, struct err *err)
{
    const int64_t each = rows_each(s->phase), T = s->max_seq_len;
    struct build b = { .phase = s->phase,
                       .models = { { .prefix = m->prefix,
                                     .techniques = &s->techniques,
                                     .stored = &m->files,
                                     .adapter = &m->adapter_files,
                                     .assumed = m->assumed } },
                       .n_models = 1,
                       .micro_steps = s->accumulation,
                       .rank = rank,
                       .ranks = ranks };

    if (trains)
        b.extents[EXTENTS_TRAIN] = (struct extents){
            .B = s->train_batch * each, .T = T, .times = (double)s->accumulation, .live = live->of[EXTENTS_TRAIN]
        };
    if (!trains || s->eval_batches != 0)
        b.extents[EXTENTS_EVAL] = (struct extents){ .B = s->eval_batch * each, .T = T, .live = live->of[EXTENTS_EVAL] };
    if (setup_length(&m->config, "max_seq_len", T, err) != 0 ||
        build_shape(&m->config, s->dropout, &b.models[0].shape, err) != 0)
        return -1;
    return build_plan(&b, p, err);
}

static void tell_equal(const struct samples *s)
{
    const int64_t equal = s->kind == SAMPLE_PAIR ? samples_equal_pairs(s) : 0;

    if (equal > 0)
        log_warning("%" PRId64 " of %" PRId64
                    " pairs are twice the same text, up to --max_seq_len: they teach nothing and "
                    "count as wrong",
                    equal, s->n);
}

static int data(struct run *r, struct err *err)
{
    const struct spec *s = r->spec;
    struct batcher_options o = { .B = s->train_batch,
                                 .T = s->max_seq_len,
                                 .rank = r->comm.rank,
                                 .ranks = r->comm.ranks,
                                 .seed = (uint64_t)s->seed,
                                 .convention = inputs_convention(s),
                                 .trim = s->convention != SPEC_PAPER && !s->pad_to_max,
                                 .reference_order = s->convention != SPEC_TUNEUP };

    if (inputs_open(&r->inputs, s, &r->models[0].config, !r->trains, err) != 0 ||
        (r->trains && batcher_init(&r->train, &r->inputs.train, &o, err) != 0) ||
        (r->trains && run_live_find(&r->train, r, s->phase, s->max_steps > 0 ? INT64_MAX : s->epochs,
                                    s->max_steps > 0 ? s->max_steps * s->accumulation : INT64_MAX,
                                    &r->live.of[EXTENTS_TRAIN], err) != 0))
        return -1;
    tell_equal(r->trains ? &r->inputs.train : &r->inputs.eval);
    o.B = s->eval_batch;
    if (r->inputs.eval.n == 0 || (r->trains && s->eval_batches == 0))
        return 0;
    if (batcher_init(&r->eval, &r->inputs.eval, &o, err) != 0)
        return -1;
    return run_live_find(&r->eval, r, s->phase, 1, s->eval_batches < 0 ? INT64_MAX : s->eval_batches,
                         &r->live.of[EXTENTS_EVAL], err);
}

static int start(struct run *r, struct err *err)
{
    const struct spec *s = r->spec;
    const struct phase_facts facts = { s->convention != SPEC_TUNEUP, bpe_eos(r->inputs.tokenizer) };

    r->work = mem_array(1, 1, s->phase->state_bytes, MEM_OTHER, err);
    if (!r->work)
        return -1;
    s->phase->open(r->work, &r->exec, s->phase_options, &facts);
    if (!r->trains)
        return 0;
    const int64_t batches = batcher_steps(&r->train);
    const int64_t updates = s->epochs * ((batches + s->accumulation - 1) / s->accumulation);
    r->total_updates = s->max_steps > 0 ? s->max_steps : updates;
    const struct trainer_options o = setup_trainer_options(s, r->total_updates);
    trainer_init(&r->models[0].trainer, &r->exec, "", &o);
    return 0;
}

static void close_work(struct run *r)
{
    mem_free(r->work);
    r->work = NULL;
}

/* ---- evaluation ---- */

/* Of no batch: NAN. */
static void metrics_of(const struct phase *p, const struct phase_mean *means, double *metrics)
{
    for (int i = 0; i < p->n_means; i++)
        metrics[i] = means[i].weight > 0 ? means[i].sum / means[i].weight : NAN;
    if (p->derive)
        p->derive(metrics);
}

/* Ranks stop together or not at all: a program may hold collectives. Gradients of half an update are in no checkpoint, so an
 * evaluation between micro-batches is not left. */
static int ask_stop(struct run *r, bool *stop, struct err *err)
{
    double asked = stop_wanted() && r->at.n_micro % r->spec->accumulation == 0 ? 1 : 0;

    if (r->comm.ranks > 1 && r->comm.all_reduce(&r->comm, &asked, 1, F64, err) != 0)
        return -1;
    *stop = asked > 0;
    return 0;
}

static int evaluate_batch(struct run *r, struct phase_mean *means, struct err *err)
{
    struct run_context c = { .row_step = 1, .seed = (uint64_t)r->spec->seed };

    if (r->spec->phase->eval_step(r->work, &r->eval.batch, &c, means, err) == 0)
        return 0;
    return err->where[0] ? -1 : err_where(err, "evaluation after update %" PRId64, r->at.n_updates);
}

int loop_evaluate(struct run *r, struct err *err)
{
    const int64_t limit = r->spec->eval_batches;
    struct phase_mean means[PHASE_MAX_METRICS] = { 0 };
    bool stop = false;
    int more;

    if (batcher_epoch(&r->eval, 0, err) != 0)
        return -1;
    for (int64_t n = 0; (limit < 0 || n < limit) && (more = batcher_step(&r->eval, err)) != 0; n++) {
        if (more < 0 || ask_stop(r, &stop, err) != 0)
            return -1;
        if (stop)
            return 1;
        if (evaluate_batch(r, means, err) != 0)
            return -1;
    }
    if (r->comm.all_reduce(&r->comm, means, 2 * PHASE_MAX_METRICS, F64, err) != 0)
        return -1;
    metrics_of(r->spec->phase, means, r->evaluation);
    return 0;
}

static int stopped(struct err *err)
{
    err_set(err, ERR_STOPPED, "stopped by a signal after saving a checkpoint");
    return err_hint(err, "The same command with --resume goes on from there.");
}

/* Once at every place where it is due, however many reasons there are. */
static int evaluate(struct run *r, struct err *err)
{
    char words[256];

    if (r->inputs.eval.n == 0 || r->spec->eval_batches == 0 || r->evaluated_at == r->at.n_updates)
        return 0;
    const int result = loop_evaluate(r, err);
    if (result != 0)
        return result < 0 || resume_save(r, err) != 0 ? -1 : stopped(err);
    r->evaluated_at = r->at.n_updates;
    if (r->at.n_updates == 0)
        memcpy(r->at.first_eval, r->evaluation, sizeof r->evaluation);
    log_note("step %" PRId64 ": evaluation %s", r->at.n_updates,
             record_words(r->spec->phase, r->evaluation, true, ", ", words, sizeof words));
    return record_eval(r, err);
}

/* ---- training ---- */

/* Rows are numbered through all epochs, so that no two draws of dropout are the same; and alike with any number of ranks,
 * though an epoch's last rows are repeated when ranks do not divide them. */
static struct run_context context_of(const struct run *r, const struct batch *b)
{
    const int64_t samples = r->inputs.train.n + RUN_MAX_RANKS, each = samples_rows_each(&r->inputs.train);
    const int64_t before = r->at.epoch * samples + b->first_row - r->comm.rank; /* samples seen by all ranks */

    return (struct run_context){
        .first_row = each * before + r->comm.rank,
        .row_step = b->row_stride,
        .seed = (uint64_t)r->spec->seed,
        .first_micro = r->at.n_micro % r->spec->accumulation == 0,
    };
}

/* What ranks tell each other after an update: doubles alone. */
struct together {
    struct phase_mean means[PHASE_MAX_METRICS];
    double tokens, peak_bytes, stop;
};

static int tell_all(struct run *r, struct together *t, struct err *err)
{
    if (r->memory)
        memory_sampler_note(r->memory);
    t->peak_bytes = r->memory ? (double)memory_sampler_peak(r->memory) : NAN; /* one unknown makes the sum unknown */
    t->stop = stop_wanted() ? 1 : 0;
    return r->comm.all_reduce(&r->comm, t, (int64_t)(sizeof *t / sizeof(double)), F64, err);
}

static void show_progress(struct run *r, const struct record_update *u)
{
    const struct run_position *at = &r->at;
    const double rate = at->seconds > 0 ? (double)at->n_updates / at->seconds : 0;
    const double left_s = rate > 0 ? (double)(r->total_updates - at->n_updates) / rate : 0;
    char memory[PRINT_BYTES_MAX], words[256], scales[96];

    if (r->peak_bytes < 0)
        snprintf(memory, sizeof memory, "memory unknown");
    else
        print_bytes((double)r->peak_bytes, memory);
    if (stop_status_wanted())
        log_note("step %" PRId64 "/%" PRId64 ", %s, %.0f s left", at->n_updates, r->total_updates,
                 record_words(r->spec->phase, u->metrics, false, ", ", words, sizeof words), left_s);
    log_progress("step %" PRId64 "/%" PRId64 "  %s%s  %.0f tokens/s  %s  %d:%02d left", at->n_updates, r->total_updates,
                 record_words(r->spec->phase, u->metrics, false, "  ", words, sizeof words),
                 record_scale_words(r, scales, sizeof scales), (double)u->tokens / u->seconds, memory,
                 (int)(left_s / 60), (int)left_s % 60);
}

static int after_update(struct run *r, struct record_update *u, struct together *t, struct err *err)
{
    if (tell_all(r, t, err) != 0)
        return -1;
    metrics_of(r->spec->phase, t->means, u->metrics);
    u->tokens = (int64_t)t->tokens;
    r->peak_bytes = isfinite(t->peak_bytes) ? (int64_t)t->peak_bytes : -1;
    r->at.last_loss = u->metrics[0];
    r->at.n_tokens += u->tokens;
    r->at.seconds += u->seconds;
    if (r->at.n_updates > r->spec->measure_warmup) {
        r->steady_seconds += u->seconds;
        r->steady_tokens += u->tokens;
        r->n_steady++;
    }
    show_progress(r, u);
    if (record_update(r, u, err) != 0)
        return -1;
    const bool due = r->spec->save_interval > 0 && r->at.n_updates % r->spec->save_interval == 0;
    if ((due || t->stop > 0) && resume_save(r, err) != 0)
        return -1;
    return t->stop > 0 ? stopped(err) : 0;
}

/* Where in the run; what is known better stands. */
static int failed_at(const struct run *r, struct err *err)
{
    return err->where[0] ? -1
                         : err_where(err, "update %" PRId64 ", epoch %" PRId64 ", batch %" PRId64, r->at.n_updates + 1,
                                     r->at.epoch, r->at.batch);
}

/* One micro-batch, and the update when it is due. 1 = the epoch has ended, 0 = go on. */
static int step(struct run *r, struct record_update *u, struct together *t, struct err *err)
{
    const double start_s = clock_seconds();
    struct trainer *trainer = &r->models[0].trainer;
    const int more = batcher_step(&r->train, err);

    if (more <= 0)
        return more < 0 ? -1 : 1;
    struct run_context c = context_of(r, &r->train.batch);
    if (c.first_micro)
        record_begin(r);
    if (r->spec->phase->micro_step(r->work, &r->train.batch, &c, t->means, err) != 0)
        return failed_at(r, err);
    t->tokens += (double)r->train.batch.n_tokens;
    r->at.batch++;
    r->at.n_micro++;
    if (r->at.n_micro % r->spec->accumulation != 0) {
        u->seconds += clock_seconds() - start_s;
        return 0;
    }
    if (trainer_step(trainer, &c, &u->grad_norm, &u->rate, err) != 0)
        return -1;
    r->at.n_updates++;
    u->seconds += clock_seconds() - start_s;
    if (after_update(r, u, t, err) != 0)
        return -1;
    *u = (struct record_update){ 0 };
    *t = (struct together){ 0 };
    return 0;
}

/* At the start, and where --eval_interval says; also for a run that goes on from a checkpoint made just before one. */
static bool evaluation_is_due(const struct run *r)
{
    const int64_t interval = r->spec->eval_interval;

    return r->at.n_updates == 0 || (interval > 0 && r->at.n_updates % interval == 0);
}

static bool is_over(const struct run *r)
{
    return r->at.n_updates >= r->total_updates || (r->spec->max_steps == 0 && r->at.epoch >= r->spec->epochs);
}

static int train(struct run *r, struct err *err)
{
    struct record_update u = { 0 };
    struct together t = { 0 };

    if (evaluation_is_due(r) && evaluate(r, err) != 0)
        return -1;
    while (!is_over(r)) {
        int ended = 0;
        if (batcher_seek(&r->train, r->at.epoch, r->at.batch, err) != 0)
            return -1;
        while (!ended && r->at.n_updates < r->total_updates) {
            ended = step(r, &u, &t, err);
            if (ended < 0 || (evaluation_is_due(r) && evaluate(r, err) != 0))
                return -1;
        }
        if (evaluate(r, err) != 0)
            return -1;
        r->at.epoch += ended;
        r->at.batch = ended ? 0 : r->at.batch;
    }
    if (evaluate(r, err) != 0) /* resumed at its last step */
        return -1;
    log_progress("%s", "");
    return 0;
}

const struct run_form run_batches = {
    .models = models, .plan = plan, .data = data, .start = start, .train = train, .close = close_work
};
