/* The loop: micro-batches until an update is due, the update, one small all-reduce of what every rank must know (loss, tokens,
 * peak memory, has anyone been asked to stop), the record. */
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "measure/clock.h"
#include "plan/print.h"
#include "run/run.h"
#include "run/stop.h"
#include "run/weights.h"
#include "store/checkpoint.h"

/* Rows are numbered through all epochs, so that no two draws of dropout are the same; and alike with any number of ranks,
 * though an epoch's last rows are repeated when ranks do not divide them. */
static struct run_context context_of(const struct run *r, const struct batch *b)
{
    const int64_t rows = r->inputs.train.n + RUN_MAX_RANKS;

    return (struct run_context){
        .first_row = r->at.epoch * rows + b->first_row,
        .row_step = b->row_stride,
        .seed = (uint64_t)r->spec->seed,
        .first_micro = r->at.n_micro % r->spec->accumulation == 0,
    };
}

int loop_evaluate(struct run *r, double *loss, struct err *err)
{
    const int64_t limit = r->spec->eval_batches;
    double sums[2] = { 0, 0 };
    int more;

    if (batcher_epoch(&r->eval, 0, err) != 0)
        return -1;
    while ((limit < 0 || sums[1] < (double)limit) && (more = batcher_step(&r->eval, err)) != 0) {
        struct run_context c = { .row_step = 1, .seed = (uint64_t)r->spec->seed };
        double batch_loss;

        if (more < 0)
            return -1;
        if (sft_eval_step(&r->sft, &r->eval.batch, &c, &batch_loss, err) != 0)
            return err->where[0] ? -1 : err_where(err, "evaluation after update %" PRId64, r->at.n_updates);
        sums[0] += batch_loss;
        sums[1] += 1;
    }
    if (r->comm.all_reduce(&r->comm, sums, 2, F64, err) != 0)
        return -1;
    *loss = sums[0] / fmax(1, sums[1]);
    return 0;
}

static int evaluate_and_record(struct run *r, struct err *err)
{
    if (r->inputs.eval.n == 0 || r->spec->eval_batches == 0)
        return 0;
    if (loop_evaluate(r, &r->eval_loss, err) != 0)
        return -1;
    log_note("step %" PRId64 ": evaluation loss %.4f, perplexity %.4g", r->at.n_updates, r->eval_loss,
             exp(r->eval_loss));
    return record_eval(r, r->eval_loss, err);
}

/* What ranks tell each other after an update. */
struct together {
    double loss, tokens, peak_bytes, stop;
};

static int tell_all(struct run *r, struct together *t, struct err *err)
{
    if (r->memory)
        memory_sampler_note(r->memory);
    t->peak_bytes = r->memory ? (double)memory_sampler_peak(r->memory) : NAN; /* one unknown makes the sum unknown */
    t->stop = stop_wanted() ? 1 : 0;
    if (r->comm.all_reduce(&r->comm, t, (int64_t)(sizeof *t / sizeof(double)), F64, err) != 0)
        return -1;
    t->loss /= r->comm.ranks;
    return 0;
}

static void show_progress(struct run *r, const struct record_update *u)
{
    const struct run_position *at = &r->at;
    const double rate = at->seconds > 0 ? (double)at->n_updates / at->seconds : 0;
    const double left_s = rate > 0 ? (double)(r->trainer.options.total - at->n_updates) / rate : 0;
    char memory[PRINT_BYTES_MAX];

    if (r->peak_bytes < 0)
        snprintf(memory, sizeof memory, "memory unknown");
    else
        print_bytes((double)r->peak_bytes, memory);
    if (stop_status_wanted())
        log_note("step %" PRId64 "/%" PRId64 ", loss %.4f, %.0f s left", at->n_updates, r->trainer.options.total,
                 u->loss, left_s);
    log_progress("step %" PRId64 "/%" PRId64 "  loss %.4f  %.0f tokens/s  %s  %d:%02d left", at->n_updates,
                 r->trainer.options.total, u->loss, (double)u->tokens / u->seconds, memory, (int)(left_s / 60),
                 (int)left_s % 60);
}

static int after_update(struct run *r, struct record_update *u, struct together *t, struct err *err)
{
    if (tell_all(r, t, err) != 0)
        return -1;
    u->loss = t->loss;
    u->tokens = (int64_t)t->tokens;
    r->peak_bytes = isfinite(t->peak_bytes) ? (int64_t)t->peak_bytes : -1;
    r->at.last_loss = u->loss;
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
    if (due || t->stop > 0)
        return resume_save(r, err);
    return 0;
}

static int stopped(struct err *err)
{
    err_set(err, ERR_STOPPED, "stopped by a signal after saving a checkpoint");
    return err_hint(err, "The same command with --resume goes on from there.");
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
    double loss;
    const int more = batcher_step(&r->train, err);

    if (more <= 0)
        return more < 0 ? -1 : 1;
    struct run_context c = context_of(r, &r->train.batch);
    if (c.first_micro)
        record_begin(r);
    if (sft_micro_step(&r->sft, &r->train.batch, &c, &loss, err) != 0)
        return failed_at(r, err);
    t->loss += loss / (double)r->spec->accumulation;
    t->tokens += (double)r->train.batch.n_tokens;
    r->at.batch++;
    r->at.n_micro++;
    if (r->at.n_micro % r->spec->accumulation != 0) {
        u->seconds += clock_seconds() - start_s;
        return 0;
    }
    if (trainer_step(&r->trainer, &c, &u->grad_norm, &u->rate, err) != 0)
        return -1;
    r->at.n_updates = r->trainer.n_updates;
    u->seconds += clock_seconds() - start_s;
    if (after_update(r, u, t, err) != 0)
        return -1;
    const bool stop = t->stop > 0;
    *u = (struct record_update){ 0 };
    *t = (struct together){ 0 };
    return stop ? stopped(err) : 0;
}

int loop_train(struct run *r, struct err *err)
{
    const int64_t total = r->trainer.options.total;
    struct record_update u = { 0 };
    struct together t = { 0 };

    if (r->at.n_updates == 0 && evaluate_and_record(r, err) != 0)
        return -1;
    r->at.first_eval_loss = r->at.n_updates == 0 ? r->eval_loss : r->at.first_eval_loss;
    while (r->at.n_updates < total) {
        if (r->spec->max_steps == 0 && r->at.epoch >= r->spec->epochs)
            break;
        if (batcher_seek(&r->train, r->at.epoch, r->at.batch, err) != 0)
            return -1;
        int ended = 0;
        while (r->at.n_updates < total && (ended = step(r, &u, &t, err)) == 0) {
        }
        if (ended < 0)
            return -1;
        if (ended) {
            r->at.epoch++;
            r->at.batch = 0;
        }
        if (evaluate_and_record(r, err) != 0)
            return -1;
    }
    if (!isfinite(r->eval_loss) && evaluate_and_record(r, err) != 0) /* resumed at its last step */
        return -1;
    log_progress("%s", "");
    return 0;
}

static void note_op(void *context, const struct program *program, const struct op_step *s, double seconds)
{
    double *op_seconds = context;

    if (strcmp(program->name, "eval") != 0)
        op_seconds[s->op] += seconds;
}

static int gather_peaks(struct run *r, struct err *err)
{
    const int64_t own = r->memory ? memory_sampler_peak(r->memory) : -1;

    if (r->comm.gather_bytes(&r->comm, &own, r->rank_peaks, (int64_t)sizeof own, err) != 0)
        return -1;
    r->peak_bytes = 0;
    for (int i = 0; i < r->comm.ranks; i++)
        r->peak_bytes = r->rank_peaks[i] < 0 || r->peak_bytes < 0 ? -1 : r->peak_bytes + r->rank_peaks[i];
    return 0;
}

static int save_result(struct run *r, struct err *err)
{
    if (r->comm.rank != 0 || !r->spec->save_model)
        return 0;
    log_note("writing the model to %s", r->spec->output);
    if (weights_check(&r->exec, err) != 0 || weights_save(&r->exec, "", &r->config, r->spec->output, err) != 0)
        return -1;
    return bpe_save_files(r->inputs.tokenizer, r->spec->output, err);
}

static int train_opened(struct run *r, struct err *err)
{
    char memory[PRINT_BYTES_MAX];
    int result = 0;

    log_note("%" PRId64 " of %" PRId64 " records train phase 1 (--data_split %s), %" PRId64 " evaluate it",
             r->inputs.train.n, r->inputs.n_records, r->spec->data_split, r->inputs.eval.n);
    log_note("%d rank%s, %s; the plan takes %s a rank", r->comm.ranks, r->comm.ranks == 1 ? "" : "s",
             r->backend.describe, print_bytes((double)r->plan.tier_bytes[TIER_DEVICE], memory));
    if (r->spec->profile) {
        r->exec.hook = note_op;
        r->exec.hook_context = r->op_seconds;
    }
    if (r->spec->resume && resume_load(r, err) < 0)
        return -1;
    if (r->comm.rank == 0 && r->spec->overwrite)
        result = checkpoint_remove_after(r->spec->output, -1, err);
    if (r->comm.rank == 0 && result == 0)
        result = record_open(r, err);
    if (comm_agree(&r->comm, result, err) != 0)
        return -1;
    stop_watch();
    result = loop_train(r, err);
    if (result != 0 && err->code != ERR_STOPPED)
        return -1;
    const struct err stop = *err;
    if (gather_peaks(r, err) != 0)
        return -1;
    if (result == 0)
        result = save_result(r, err);
    if (r->comm.rank == 0 && (result == 0 || stop.code == ERR_STOPPED) &&
        record_finish(r, stop.code == ERR_STOPPED ? "stopped" : "finished", err) != 0)
        result = -1;
    if (comm_agree(&r->comm, stop.code == ERR_STOPPED ? 0 : result, err) != 0)
        return -1;
    if (stop.code == ERR_STOPPED)
        *err = stop;
    else if (r->comm.rank == 0)
        record_summary(r);
    return result;
}

/* A failure that the others do not know of leaves them waiting in a collective, so all are ended. */
static void end_failed(struct run *r, struct err *err)
{
    char host[64] = "unknown";

    if (r->comm_is_open && (r->comm.ranks == 1 || r->comm.agreed || err->code == ERR_STOPPED)) {
        if (r->comm.rank > 0)
            err->what[0] = '\0';
        return;
    }
    if (!r->comm_is_open)
        return;
    gethostname(host, sizeof host - 1);
    log_set(log_level(), true);
    log_warning("rank %d of %d on %s failed, which ends the run: %s%s%s; %s", r->comm.rank, r->comm.ranks, host,
                err->what, err->where[0] ? "; " : "", err->where, err->hint);
    r->comm.abort(&r->comm, err_exit_code(err->code));
}

static void print_json(json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(2));
    fputc('\n', stdout);
    json_decref(json);
}

/* A finished run that is asked to go on: its result, once more. */
static int tell_done(const struct run *r, struct err *err)
{
    char path[FILE_PATH_MAX];
    json_t *json;

    log_note("the run in %s has finished: nothing is left to do", r->spec->output);
    if (r->comm.rank != 0 || !r->spec->json)
        return 0;
    if (file_join(path, r->spec->output, "run.json", err) != 0 || !(json = json_read(path, SIZE_MAX / 2, err)))
        return -1;
    print_json(json);
    return 0;
}

int run_train(const struct run_request *q, struct err *err)
{
    struct run r;
    int result;

    stop_prepare();
    result = setup_open(&r, q, true, err);
    if (result == 0)
        result = r.is_done ? tell_done(&r, err) : train_opened(&r, err);
    if (result != 0)
        end_failed(&r, err);
    else if (!r.is_done && r.comm.rank == 0 && q->spec->json)
        print_json(record_result(&r));
    setup_close(&r);
    return result;
}

int run_evaluate(const struct run_request *q, struct run_evaluation *out, struct err *err)
{
    struct run r;
    int result;

    *out = (struct run_evaluation){ 0 };
    stop_prepare();
    result = setup_open(&r, q, false, err);
    if (result == 0)
        result = loop_evaluate(&r, &out->loss, err);
    if (result == 0) {
        out->records = r.inputs.eval.n;
        out->tokens = r.inputs.eval.n_ids;
        out->tells = r.comm.rank == 0;
    } else {
        end_failed(&r, err);
    }
    setup_close(&r);
    return result;
}
